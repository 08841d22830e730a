"""The parts of a diffusion model that a run begins with, and the model they become.

What learns is on the device in float32. Text towers and autoencoder take part there too, in
bfloat16 if the run computes in it; the model that is written holds them as they were read.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from safelight.checkpoints.library import find_model
from safelight.checkpoints.load import load, load_autoencoder, load_clip, open_checkpoint
from safelight.checkpoints.scheduler_json import scheduler_to_json
from safelight.checkpoints.tokenizer_files import read_vocabulary
from safelight.diffusion.process import Process
from safelight.errors import CheckpointError, FileError, RequestError
from safelight.families import Family, ProcessConfig, SamplerHint
from safelight.model import Model
from safelight.models.autoencoder import Autoencoder, Codec
from safelight.models.backbone import Backbone
from safelight.models.clip import ClipText
from safelight.models.unet import UNet, UNetConfig
from safelight.printable import shown
from safelight.text.conditioner import Conditioner
from safelight.text.spec import TextRole, TextSpec
from safelight.training.config.configs import DiffusionRun
from safelight.training.recipes.job import Workshop, seeded
from safelight.training.recipes.writing import DTYPES

SCRATCH = ProcessConfig(prediction="v", beta_start=1e-4, beta_end=0.02, beta_schedule="linear")


@dataclass(frozen=True)
class Learned:
    """A model in training.

    original: as it was read, on the CPU, with the U-Net that learns. types: of each part in its
    file, for a checkpoint.
    """

    original: Model
    unet: UNet
    text: Conditioner
    codec: Codec
    scratch: bool
    types: Mapping[str, torch.dtype]
    facts: tuple[str, ...]

    @property
    def family(self) -> Family:
        return self.original.family

    @property
    def process(self) -> Process:
        return self.original.process

    def whole(self, dtype: str | None) -> Model:
        """The model to be written: in a type, or each part in the type that it was read in."""
        kinds = {} if dtype is not None else dict(self.types)
        fallback = DTYPES[dtype or "fp32"]

        def cast(role: str, module: nn.Module) -> nn.Module:
            kind = kinds.get(role, fallback)
            made = copy.deepcopy(module).to("cpu")
            for name, tensor in made.state_dict().items():
                if tensor.is_floating_point() and not tensor.to(kind).isfinite().all():
                    raise RequestError(
                        f"{role}.{name} does not fit {kind}; export with another export.dtype"
                    )
            return made.to(kind)

        old = self.original
        roles = ("text_encoder", "text_encoder_2")
        towers = [
            cast(r, t)
            for r, t in zip(roles[: len(old.text.encoders)], old.text.encoders, strict=True)
        ]
        unet, coder = cast("unet", self.unet), cast("vae", _module(old.codec))
        assert isinstance(unet, UNet)
        return replace(
            old,
            text=Conditioner(
                old.text.spec, [t for t in towers if isinstance(t, ClipText)], old.text.tokenizer
            ),
            network=Backbone(unet),
            codec=Codec(coder, old.codec.config),  # type: ignore[arg-type]
        )


def learned(config: DiffusionRun, workshop: Workshop) -> Learned:
    """What a config begins with.

    Raises RequestError for parts that exclude each other or do not fit, and what loading raises.
    """
    section = config.model
    parts = {"autoencoder": section.autoencoder, "text": section.text, "unet": section.unet}
    if section.checkpoint is not None:
        given = [name for name, value in parts.items() if value is not None]
        if given:
            raise RequestError(
                f"model.checkpoint brings all parts, so model.{given[0]} cannot be given beside it"
            )
        model, types = _checkpoint(config)
        facts = (f"fine-tuning {model.family.label}, {_prediction(model)}",)
    else:
        missing = [name for name in ("autoencoder", "text") if parts[name] is None]
        if missing:
            raise RequestError(
                f"model.{missing[0]} is missing: give model.checkpoint to fine-tune a model, or "
                "model.autoencoder and model.text to train a U-Net from scratch"
            )
        model, types = _scratch(config), {}
        facts = (f"a U-Net from scratch, {_prediction(model)}",)
    _check_sayable(model.family)
    unet = model.network.unet.to(workshop.device).requires_grad_(True)
    text, codec = beside(model, workshop, half=config.training.precision == "bf16")
    if config.text.learns:
        for tower in model.text.encoders:
            tower.to(workshop.device).requires_grad_(True)
        text = model.text
    for note in model.notes:
        workshop.warn(note)
    return Learned(model, unet, text, codec, section.checkpoint is None, types, facts)


def _check_sayable(family: Family) -> None:
    """Refuse a process that the model's own files could not say, before it is trained."""
    process = family.process
    try:
        scheduler_to_json(process, family.hint)
    except StopIteration:
        raise RequestError(
            f"process.prediction {process.prediction} is not for kind {process.kind}; leave it out"
        ) from None


def _prediction(model: Model) -> str:
    process = model.family.process
    zero = ", zero terminal SNR" if process.zero_terminal_snr else ""
    return f"predicting {process.prediction if process.kind != 'flow' else 'flow'}{zero}"


def _checkpoint(config: DiffusionRun) -> tuple[Model, dict[str, torch.dtype]]:
    section, process = config.model, config.process
    assert section.checkpoint is not None
    for name in ("kind", "beta_start", "beta_end", "beta_schedule", "shift"):
        if getattr(process, name) is not None:
            raise RequestError(
                f"process.{name} is the checkpoint's own; only prediction and zero_terminal_snr "
                "can be changed by fine-tuning"
            )
    path = find_model(section.checkpoint)
    model = load(
        path,
        dtype=torch.float32,
        vae=None if section.vae is None else find_model(section.vae, what="autoencoder"),
        prediction=process.prediction,
        zero_terminal_snr=process.zero_terminal_snr,
        ema=section.use_ema,
        variant=section.variant,
    )
    family = model.family
    if family.extra_channels or family.task not in ("text", "refine"):
        raise RequestError(
            f"{shown(path)} is {family.label}, which draws from pictures; this recipe trains "
            "models that draw from text alone"
        )
    if not isinstance(model.codec.autoencoder, Autoencoder):
        raise RequestError(
            f"{shown(section.vae or path)} is a tiny autoencoder, whose latents have no posterior; "
            "train with the model's own"
        )
    if section.label is not None:
        hint = replace(family.hint, stated=True)
        model = replace(model, family=replace(family, label=section.label, hint=hint))
    return model, _types(path, config)


def _types(path: Path, config: DiffusionRun) -> dict[str, torch.dtype]:
    """The type of each part in its file; float32 for one of several types, or of a rare one."""
    with open_checkpoint(
        path, ema=config.model.use_ema, variant=config.model.variant, own_vae=True
    ) as checkpoint:
        found = {
            part.role: {part.tensors.info(name).dtype for name in part.tensors.names}
            for part in checkpoint.parts
        }
    known = {role: kinds & set(DTYPES.values()) for role, kinds in found.items()}
    types: dict[str, torch.dtype] = {
        role: kinds.pop() for role, kinds in known.items() if len(kinds) == 1
    }
    if config.model.vae is not None:
        types.pop("vae", None)
    return types


def _scratch(config: DiffusionRun) -> Model:
    section, process = config.model, config.process
    assert section.autoencoder is not None and section.text is not None
    codec = load_autoencoder(section.autoencoder, dtype=torch.float32)
    if not isinstance(codec.autoencoder, Autoencoder):
        raise RequestError(
            f"{shown(section.autoencoder)} is a tiny autoencoder; model.autoencoder must be KL"
        )
    spec, tower = _text(Path(section.text))
    stated = {n: v for n, v in process.model_dump().items() if v is not None}
    made = replace(SCRATCH, **stated)
    if made.kind == "flow" and process.prediction is None:
        made = replace(made, prediction="flow")
    if made.kind == "edm" and process.prediction is None:
        made = replace(made, prediction="edm")
    shape = {} if section.unet is None else section.unet.model_dump()
    try:
        backbone = UNetConfig(
            in_channels=codec.channels,
            out_channels=codec.channels,
            context_width=spec.roles[0].encoder.width,
            **{"channels": (128, 192), "depths": ((1, 1), (1, 1)), "heads": (4, 6), **shape},
        )
    except CheckpointError as error:
        raise RequestError(f"section model.unet: {error}") from None
    hint = SamplerHint(**config.hint.model_dump(), stated=True)
    family = Family(
        name="own",
        label=section.label or "a model of our own",
        backbone=backbone,
        text=spec,
        codec=codec.config,
        process=made,
        native_size=config.data.size,
        hint=hint,
    )
    with seeded(config.training.seed, "unet"):
        unet = UNet(backbone)
    _quieten(unet)
    conditioner = Conditioner(spec, [tower])
    return Model(family, conditioner, Backbone(unet), codec, made.build())


def _text(path: Path) -> tuple[TextSpec, ClipText]:
    """The text tower and the words of a folder with `text_encoder` and `tokenizer`."""
    tower_folder, words = path / "text_encoder", path / "tokenizer"
    if not (tower_folder / "config.json").is_file():
        raise FileError(
            f"model.text is a folder that holds text_encoder/ and tokenizer/, as the recipe clip "
            f"writes; {shown(path)} has no text_encoder/config.json"
        )
    vocabulary = read_vocabulary(words) if words.is_dir() else None
    if vocabulary is None:
        raise FileError(f"{shown(path)} has no tokenizer/ with the words of its text encoder")
    try:
        tower = load_clip(tower_folder, dtype=torch.float32)
    except CheckpointError:
        tower = load_clip(tower_folder, dtype=torch.float32, projection=False)
    return TextSpec((TextRole(tower.config),), vocabulary=vocabulary), tower


@torch.no_grad()
def _quieten(unet: UNet) -> None:
    """Start every residual branch and the output at zero, so that the network starts simple."""
    for name, parameter in unet.named_parameters():
        parts = name.split(".")
        if parts[0] == "conv_out" or (len(parts) > 1 and parts[-2] in ("conv2", "proj_out")):
            parameter.zero_()


def beside(model: Model, workshop: Workshop, *, half: bool) -> tuple[Conditioner, Codec]:
    """Text towers and autoencoder as they take part in training; half: in bfloat16."""
    device = workshop.device
    coder = _module(model.codec)
    for module in (*model.text.encoders, coder):
        module.eval().requires_grad_(False)
    if device.type == "cpu" and not half:
        return model.text, model.codec
    kind = torch.bfloat16 if half else torch.float32
    towers = [copy.deepcopy(tower).to(device, kind) for tower in model.text.encoders]
    # bfloat16 would cost the latents more than it saves: they are computed once
    seeing = copy.deepcopy(coder).to(device)
    spec, tokenizer = model.text.spec, model.text.tokenizer
    return Conditioner(spec, towers, tokenizer), Codec(seeing, model.codec.config)  # type: ignore[arg-type]


def _module(codec: Codec) -> nn.Module:
    assert isinstance(codec.autoencoder, nn.Module)
    return codec.autoencoder
