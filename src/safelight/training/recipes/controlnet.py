"""The recipe of a ControlNet: a frozen model, and a copy of its first half that reads maps."""

from math import log2
from pathlib import Path

import torch
from torch import nn

from safelight.checkpoints.control_about import WEIGHTS, write_making
from safelight.checkpoints.control_load import load_control
from safelight.checkpoints.control_save import save_control
from safelight.checkpoints.library import find_model
from safelight.checkpoints.load import load
from safelight.errors import CheckpointError, RequestError
from safelight.model import Model
from safelight.models.autoencoder import Autoencoder, Codec
from safelight.models.backbone import Backbone
from safelight.models.controlnet import ControlNet, controlnet_of
from safelight.preprocessors.making import Making
from safelight.printable import shown
from safelight.training.buckets import covering
from safelight.training.config.configs import ControlRun
from safelight.training.config.control import ControlPreviewSection
from safelight.training.control_maps import MapMaker
from safelight.training.control_task import PLAYER, ControlTask, controlled
from safelight.training.control_watch import ControlPreviews, ControlWatch
from safelight.training.draw import Draw
from safelight.training.latent_cache import codec_hash, text_hash, weights_hash
from safelight.training.pictures import cropped, decoded, to_tensor
from safelight.training.recipes.control_data import ControlData, control_data
from safelight.training.recipes.diffusion import diffusion_settings
from safelight.training.recipes.job import Job, Weights, Workshop, seeded, size_of
from safelight.training.recipes.latents import resident
from safelight.training.recipes.learned import beside
from safelight.training.recipes.watching import JUDGED
from safelight.training.recipes.writing import DTYPES
from safelight.training.sources.folder import read_file
from safelight.training.text_states import FrozenText
from safelight.training.validation import Validation

PUBLISHED_WIDTHS = (16, 32, 96, 256)


def controlnet_job(config: ControlRun, workshop: Workshop) -> Job:
    """A ControlNet that learns to make a frozen model follow maps.

    Raises what reading data and weights raises, RequestError for what does not fit together.
    """
    settings = config.training.settings()
    if settings.parallel == "fsdp":
        raise RequestError(
            "training.parallel fsdp shares out what learns, which is the smaller part of a "
            "ControlNet and its model; use ddp"
        )
    half = settings.precision == "bf16"
    maker = _maker(config)
    model = _model(config)
    unet = model.network.unet.to(workshop.device)
    net = _net(config, model, workshop)
    unet.to(torch.bfloat16 if half else torch.float32)
    if settings.channels_last:
        unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    text, codec = beside(model, workshop, half=half)
    task = ControlTask(
        controlled(Backbone(unet, config.noise.checkpointing), net),
        model.process,
        FrozenText(text),
        diffusion_settings(config.noise, scratch=False),
        map_dropout=config.control.dropout,
    )
    factor = codec.factor * 2 ** (unet.config.levels - 1)
    found = control_data(config, codec, text, factor, maker, workshop)
    watch = _watch(config, task, codec, maker, found, workshop)
    for note in model.notes:
        workshop.warn(note)

    def write(weights: Weights, path: Path) -> list[Path]:
        net.load_state_dict(weights[PLAYER], strict=True)
        return _write(config, net, maker.making, model, path)

    count = sum(p.numel() for p in net.parameters())
    return Job(
        task,
        found.train,
        found.order,
        settings,
        write,
        (PLAYER,),
        watch.validate,
        (
            *found.facts,
            f"a ControlNet of {count / 1e6:.2f} million weights for {model.family.label}",
            f"maps: {maker.making}",
        ),
        (*text.encoders, unet, _module(codec)),
        sum(resident(pools) for pools in found.pools) + size_of(*found.kept),
        identity={
            "model": weights_hash(unet),
            "autoencoder": codec_hash(codec),
            "text": text_hash(FrozenText(text)),
            "process": repr(model.family.process),
            **found.identity,
        },
    )


def _maker(config: ControlRun) -> MapMaker:
    """What makes the maps; tried at once, so that what it lacks is told before data is read."""
    section = config.control
    maker = MapMaker(Making(section.making, section.options, section.resolution))
    maker.maps(torch.zeros(1, 3, 32, 32), Draw(0, 0, 1))
    return maker


def _model(config: ControlRun) -> Model:
    """The model in float32 on the CPU. Raises RequestError if it draws from more than text."""
    section = config.model
    path = find_model(section.checkpoint)
    vae = None if section.vae is None else find_model(section.vae, what="autoencoder")
    model = load(path, dtype=torch.float32, vae=vae, ema=section.use_ema, variant=section.variant)
    family = model.family
    if family.extra_channels or family.task not in ("text", "refine"):
        raise RequestError(
            f"{shown(path)} is {family.label}, which draws from pictures; this recipe trains "
            "ControlNets for models that draw from text alone"
        )
    if not isinstance(model.codec.autoencoder, Autoencoder):
        raise RequestError(
            f"{shown(section.vae or path)} is a tiny autoencoder, whose latents have no posterior; "
            "train with the model's own"
        )
    model.network.unet.requires_grad_(False)
    return model


def _net(config: ControlRun, model: Model, workshop: Workshop) -> ControlNet:
    """What learns, float32 on the device."""
    section, factor, unet = config.control, model.codec.factor, model.network.unet
    halvings = round(log2(factor))
    if section.checkpoint is None:
        widths = section.widths or _widths(halvings + 1)
        if len(widths) != halvings + 1:
            raise RequestError(
                f"control.widths needs {halvings + 1} numbers, as the latents are {factor} times "
                f"smaller than the pictures and each but the first halves; got {len(widths)}"
            )
        with seeded(config.training.seed, PLAYER):
            return controlnet_of(unet, widths=tuple(widths))
    path = Path(section.checkpoint)
    loaded = load_control(path, dtype=torch.float32, device=workshop.device, base=unet)
    net = loaded.network
    if loaded.kind != "ControlNet" or not isinstance(net, ControlNet):
        raise RequestError(
            f"control.checkpoint {shown(path)} is a {loaded.kind}; this recipe trains ControlNets"
        )
    try:
        net.check_fits(unet.config)
    except RequestError as error:
        raise CheckpointError(f"control.checkpoint {shown(path)}: {error}") from None
    if net.factor != factor or net.channels != 3:
        raise CheckpointError(
            f"control.checkpoint {shown(path)} reads maps of {net.channels} channels that are "
            f"{net.factor} times larger than the latents; the model needs 3 and {factor}"
        )
    return net


def _widths(count: int) -> tuple[int, ...]:
    """The published widths, cut off or their last repeated."""
    return (PUBLISHED_WIDTHS + PUBLISHED_WIDTHS[-1:] * count)[:count]


def _module(codec: Codec) -> nn.Module:
    assert isinstance(codec.autoencoder, nn.Module)
    return codec.autoencoder


def _write(
    config: ControlRun, net: ControlNet, making: Making, model: Model, path: Path
) -> list[Path]:
    """The ControlNet in a new folder, in the layout asked for, with how its maps were made."""
    section = config.export
    dtype, width = DTYPES[section.dtype or "fp32"], model.family.text.size_width
    if section.layout == "diffusers":
        save_control(net, path, dtype=dtype, size_width=width)
    else:
        path.mkdir(parents=True, exist_ok=True)
        save_control(net, path / WEIGHTS, "ldm", dtype=dtype, size_width=width)
    write_making(making, path)
    return [path]


# -- what is looked at -----------------------------------------------------------------------------


def _watch(
    config: ControlRun,
    task: ControlTask,
    codec: Codec,
    maker: MapMaker,
    found: ControlData,
    workshop: Workshop,
) -> ControlWatch:
    held = [Validation(data, range(len(data)), min(JUDGED, len(data))) for data in found.held]
    section = config.previews
    if section is None:
        return ControlWatch(task, held, maker, workshop.warn)
    every = section.every or config.training.validate_every or config.training.steps
    return ControlWatch(
        task,
        held,
        maker,
        workshop.warn,
        previews=_previews(section, config.data.size, codec.factor, maker, found),
        codec=codec,
        preview_every=every,
    )


def _previews(
    section: ControlPreviewSection, side: int, factor: int, maker: MapMaker, found: ControlData
) -> ControlPreviews:
    """Previews of the pictures named, or else of those held out. Raises as reading these does."""
    if section.pictures:
        height, width = section.height or side, section.width or side
        if height % factor or width % factor:
            raise RequestError(
                f"previews.height and width must be multiples of {factor}; got {height} and {width}"
            )
        rows = []
        for name in section.pictures:
            image = decoded(read_file(Path(name)), name)
            place = covering(image.size, (width, height))
            rows.append(cropped(image, place.resized, place.corner(), place.bucket))
        maps, prompts = maker.maps(to_tensor(rows), Draw(0, 0, len(rows))), section.prompts
    else:
        if section.height or section.width:
            raise RequestError(
                "previews.height and width are those of the pictures held out; leave them out, or "
                "give previews.pictures and prompts"
            )
        maps, prompts = found.examples(section.count)
    return ControlPreviews(
        prompts,
        maps.shape[2],
        maps.shape[3],
        section.steps,
        section.guidance_scale,
        section.sampler,
        section.schedule,
        section.seed,
        maps=maps,
    )
