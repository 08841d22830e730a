"""The recipe of an autoencoder: KL or VQ, from scratch or going on from a checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from safelight.checkpoints.load import load_autoencoder, load_clip_vision
from safelight.errors import CheckpointError, RequestError
from safelight.models.autoencoder import Autoencoder, AutoencoderConfig, Codec, CodecConfig
from safelight.models.vector_quantiser import VqAutoencoder, VqConfig
from safelight.training.autoencoder.critic import Critic, CriticConfig
from safelight.training.autoencoder.held_out import HeldOutPictures
from safelight.training.autoencoder.perceptual import PerceptualDistance
from safelight.training.autoencoder.pixels import PixelWeights
from safelight.training.autoencoder.statistics import folded, latent_statistics
from safelight.training.autoencoder.task import (
    AUTOENCODER,
    AutoencoderTask,
    CriticPlan,
    LossWeights,
    PictureBatch,
    Robustness,
    as_floats,
)
from safelight.training.config.configs import AutoencoderRun, CoderSection, CriticSection
from safelight.training.config.sections import PictureSection
from safelight.training.draw import Draw
from safelight.training.order import Flat, Order
from safelight.training.recipes.job import (
    Job,
    Weights,
    Workshop,
    judged_weights,
    seeded,
    size_of,
)
from safelight.training.recipes.pictures import of_one_size, open_pictures
from safelight.training.recipes.rows import Kept, Wordless
from safelight.training.recipes.scenes import open_scenes
from safelight.training.recipes.writing import DTYPES, write_codec, write_vq
from safelight.training.task import Data
from safelight.training.watch import Moment

STATISTICS = 4096  # pictures over which the latents are measured


@dataclass(frozen=True)
class _Pictures:
    train: Data[PictureBatch]
    held: Data[PictureBatch]
    order: Order
    facts: tuple[str, ...]
    resident: int = 0


def autoencoder_job(config: AutoencoderRun, workshop: Workshop) -> Job:
    """An autoencoder that learns to give pictures back.

    Raises what reading data and weights raises, RequestError for shapes that do not fit.
    """
    settings = config.training.settings()
    coder, codec = _coder(config.autoencoder, settings.seed, workshop)
    kept = _kept(coder, config.autoencoder.learns, half=settings.precision == "bf16")
    _check_size(config, coder.config.factor)
    found = _pictures(config, workshop)
    task = AutoencoderTask(
        coder,
        steps=settings.steps,
        critic=_critic(config.critic, settings.seed, workshop),
        perceptual=_perceptual(config, workshop),
        weights=_weights(config),
        plan=_plan(config.critic),
        robustness=Robustness(config.loss.noisy_rows, config.loss.noise_sizes),
    )

    def look(moment: Moment) -> Mapping[str, float]:
        if not len(found.held):
            return {}
        judge = HeldOutPictures(found.held, range(len(found.held)), _judged(config))
        with judged_weights(moment):
            return judge(task)

    def write(weights: Weights, path: Path) -> list[Path]:
        coder.float().load_state_dict({**kept, **weights[AUTOENCODER]}, strict=True)
        dtype = DTYPES[config.export.dtype or "fp32"]
        if isinstance(coder, VqAutoencoder):
            workshop.warn("a VQ autoencoder cannot stand for a model's own: --vae takes KL ones")
            return write_vq(path, coder, config.data.size, dtype)
        result, told = coder, codec.config if codec is not None else CodecConfig(coder.config)
        if codec is None and config.autoencoder.fold:
            result = _folded(coder, found.train, workshop)
            told = CodecConfig(result.config, 1.0, 0.0)
        return write_codec(path, Codec(result, told), config.data.size, dtype)

    frozen = () if task.perceptual is None else (task.perceptual.tower,)
    return Job(
        task,
        found.train,
        found.order,
        settings,
        write,
        (AUTOENCODER,),
        look,
        (*found.facts, _said(coder)),
        frozen,
        found.resident,
    )


def _coder(
    section: CoderSection, seed: int, workshop: Workshop
) -> tuple[Autoencoder | VqAutoencoder, Codec | None]:
    """What learns; and the codec that it was, if it goes on from a checkpoint."""
    if section.checkpoint is not None:
        if section.kind == "vq":
            raise RequestError("autoencoder.checkpoint is of kind kl; leave kind out")
        codec = load_autoencoder(section.checkpoint, dtype=torch.float32)
        if not isinstance(codec.autoencoder, Autoencoder):
            raise RequestError("autoencoder.checkpoint is a tiny autoencoder; give a KL one")
        codec.autoencoder.requires_grad_(True)
        return codec.autoencoder.to(workshop.device), codec
    shape = {
        name: getattr(section, name)
        for name in ("latent_channels", "widths", "layers", "groups", "mid_attention")
    }
    try:
        with seeded(seed, AUTOENCODER):
            if section.kind == "vq":
                vq = VqConfig(**shape, codes=section.codes, averages=section.averages)
                return vq.build().to(workshop.device), None
            return AutoencoderConfig(**shape).build().to(workshop.device), None
    except CheckpointError as error:
        raise RequestError(f"section autoencoder: {error}") from None


def _kept(coder: nn.Module, learns: str, *, half: bool) -> dict[str, Tensor]:
    """Hold still what does not learn, in the type of training; gives its weights as they were."""
    if learns == "all":
        return {}
    still = {
        name: weight
        for name, weight in coder.named_parameters()
        if name.startswith(("encoder.", "quant_conv."))
    }
    before = {name: weight.detach().clone() for name, weight in still.items()}
    for weight in still.values():
        weight.requires_grad_(False)
        if half:
            weight.data = weight.data.bfloat16()
    return before


def _check_size(config: AutoencoderRun, factor: int) -> None:
    data = config.data
    multiple = data.multiple if isinstance(data, PictureSection) else data.size
    if data.size % factor or multiple % factor:
        raise RequestError(
            f"data.size and data.multiple must be multiples of {factor}, the pixels of a latent; "
            f"got {data.size} and {multiple}"
        )


def _pictures(config: AutoencoderRun, workshop: Workshop) -> _Pictures:
    data, training = config.data, config.training
    if isinstance(data, PictureSection):
        found = open_pictures(data, workshop, captions=False)
        order = found.order(training.batch_size, training.seed, workshop)
        learn = found.data(found.train, data, workshop, words=False, order=order)
        held = found.data(of_one_size(found.held), data, workshop, words=False)
        return _Pictures(Wordless(learn), Wordless(held), order, found.facts)
    scenes = open_scenes(data, workshop)
    train = scenes.pictures(scenes.train, workshop)
    kept = scenes.pictures(scenes.held, workshop)
    order = Flat(len(train), training.batch_size, training.seed)
    return _Pictures(Kept(train), Kept(kept), order, scenes.facts, size_of(train, kept))


def _critic(section: CriticSection | bool, seed: int, workshop: Workshop) -> Critic | None:
    if not isinstance(section, CriticSection):
        return None
    with seeded(seed, "critic"):
        made = CriticConfig(section.widths, section.norm, section.groups).build()
    return made.to(workshop.device)


def _plan(section: CriticSection | bool) -> CriticPlan:
    if not isinstance(section, CriticSection):
        return CriticPlan()
    return CriticPlan(
        start=section.start,
        lead=section.lead,
        ramp=section.ramp,
        lecam=section.lecam,
        r1=section.r1,
    )


def _perceptual(config: AutoencoderRun, workshop: Workshop) -> PerceptualDistance | None:
    path = config.loss.image_encoder
    if path is None or not config.loss.perceptual:
        if config.loss.perceptual and "perceptual" in config.loss.model_fields_set:
            raise RequestError("loss.perceptual needs loss.image_encoder, the tower that judges")
        return None
    tower = load_clip_vision(path, dtype=torch.float32, device=workshop.device, projection=False)
    if config.training.precision == "bf16":
        tower = tower.bfloat16()
    return PerceptualDistance(tower)


def _weights(config: AutoencoderRun) -> LossWeights:
    loss = config.loss
    return LossWeights(
        pixels=PixelWeights(loss.l1, loss.laplacian, loss.ms_ssim, loss.squares),
        perceptual=loss.perceptual,
        kl=loss.kl,
        codebook=loss.codebook,
        commitment=loss.commitment,
        adversarial=loss.adversarial,
    )


def _judged(config: AutoencoderRun) -> int:
    return min(64, config.training.micro_batch or config.training.batch_size)


@torch.no_grad()
def _folded(coder: Autoencoder, data: Data[PictureBatch], workshop: Workshop) -> Autoencoder:
    """The autoencoder with latents of zero mean and unit deviation over what it learned from."""
    coder.eval()
    result = latent_statistics(coder.encode, _some(data, workshop.device))
    workshop.say(
        f"latents over {result.pictures} pictures: deviations "
        f"{', '.join(f'{d:.3f}' for d in result.deviation.tolist())}, made 1"
    )
    return folded(coder, result.mean, result.deviation)


def _some(data: Data[PictureBatch], device: torch.device) -> Iterator[Tensor]:
    """Up to `STATISTICS` pictures spread over a set, one by one where their sizes may differ."""
    step = max(1, len(data) // STATISTICS)
    indices = range(0, len(data), step)[:STATISTICS]
    size = 64 if isinstance(data, Kept) else 1
    for start in range(0, len(indices), size):
        part = list(indices[start : start + size])
        yield as_floats(data.batch(part, Draw(0, start, len(part), device=device)).pictures)


def _said(coder: Autoencoder | VqAutoencoder) -> str:
    config = coder.config
    kind = "VQ" if isinstance(coder, VqAutoencoder) else "KL"
    return f"{kind} autoencoder: latents of {config.latent_channels} channels, 1/{config.factor}"
