"""The recipe of latent diffusion: a U-Net from scratch, or the whole of one that is fine-tuned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from safelight.checkpoints.save import save
from safelight.diffusion.draws import MixedDraw, SigmaDraw, UniformDraw, resolve_draw
from safelight.diffusion.weights import resolve_weight
from safelight.errors import RequestError
from safelight.models.backbone import Backbone
from safelight.training.config.configs import DiffusionRun, NamedSection, NoiseSection
from safelight.training.config.sections import PictureSection
from safelight.training.diffusion_task import PLAYER, DiffusionSettings, DiffusionTask, LatentBatch
from safelight.training.diffusion_watch import DiffusionWatch
from safelight.training.latent_cache import codec_hash, text_hash
from safelight.training.latent_data import EncodedPictures, PoolsBySize
from safelight.training.order import Flat, Order
from safelight.training.previews import Previews
from safelight.training.recipes.job import TRIAL, Job, Weights, Workshop
from safelight.training.recipes.latents import (
    Encoder,
    of_pictures,
    of_scenes,
    resident,
    tell_scale,
)
from safelight.training.recipes.learned import Learned, learned
from safelight.training.recipes.pictures import Pictures, open_pictures
from safelight.training.recipes.scenes import open_scenes
from safelight.training.task import Data
from safelight.training.text_states import FrozenText
from safelight.training.validation import Validation, over_all
from safelight.training.watch import Moment

JUDGED = 64


@dataclass(frozen=True)
class _Latents:
    train: Data[LatentBatch]
    pools: tuple[PoolsBySize, ...]  # of all that stays on the device
    held: PoolsBySize | None
    order: Order
    facts: tuple[str, ...]


def diffusion_job(config: DiffusionRun, workshop: Workshop) -> Job:
    """A U-Net that learns to predict, from noisy latents and a caption.

    Raises what reading data and weights raises, RequestError for what does not fit together.
    """
    settings = config.training.settings()
    model = learned(config, workshop)
    how = diffusion_settings(config.noise, scratch=model.scratch)
    text = FrozenText(model.text)
    backbone = Backbone(model.unet, checkpointing=config.noise.checkpointing)
    task = DiffusionTask(backbone, model.process, text, how)
    found = _latents(config, model, workshop)
    watch = _watch(config, task, model, found, workshop)

    def write(weights: Weights, path: Path) -> list[Path]:
        model.unet.load_state_dict(weights[PLAYER], strict=True)
        limit = config.export.max_file_mb
        save(
            model.whole(config.export.dtype),
            path,
            max_file_bytes=None if limit is None else limit * 1_000_000,
        )
        return [path]

    return Job(
        task,
        found.train,
        found.order,
        settings,
        write,
        (PLAYER,),
        watch.validate,
        (*found.facts, *model.facts),
        (*model.text.encoders, _module(model)),
        sum(resident(pools) for pools in found.pools),
        identity={
            "autoencoder": codec_hash(model.codec),
            "text": text_hash(text),
            "vocabulary": model.text.tokenizer.vocabulary.digest,
            "process": repr(model.family.process),
        },
    )


def _module(model: Learned) -> torch.nn.Module:
    coder = model.codec.autoencoder
    assert isinstance(coder, torch.nn.Module)
    return coder


def diffusion_settings(noise: NoiseSection, *, scratch: bool) -> DiffusionSettings:
    """How a network is trained. Raises RequestError for a law or a weight that there is not."""
    return DiffusionSettings(
        draw=_draw(noise.draw, scratch=scratch),
        weight=resolve_weight(noise.weight.name, **noise.weight.options),
        caption_dropout=noise.caption_dropout,
        offset_noise=noise.offset_noise,
        pyramid_noise=noise.pyramid_noise,
        input_perturbation=noise.input_perturbation,
        huber=noise.huber,
    )


def _draw(section: NamedSection | None, *, scratch: bool) -> SigmaDraw:
    """The law of noise levels: mixed from scratch, and as it was trained for a checkpoint."""
    if section is None:
        return MixedDraw() if scratch else UniformDraw()
    numbers: dict[str, float] = {}
    for name, value in section.options.items():
        if isinstance(value, str):
            raise RequestError(f"noise.draw.options.{name} must be a number; got {value!r}")
        numbers[name] = value
    return resolve_draw(section.name, **numbers)


def _latents(config: DiffusionRun, model: Learned, workshop: Workshop) -> _Latents:
    training, data = config.training, config.data
    encoder = Encoder(model.codec, model.text, config.cache, config.noise.latents, workshop)
    factor = model.codec.factor * 2 ** (model.unet.config.levels - 1)
    if not isinstance(data, PictureSection):
        check_multiple("data.size", data.size, factor)
        scenes = open_scenes(data, workshop)
        train = of_scenes(scenes, scenes.train, encoder)
        held = of_scenes(scenes, scenes.held, encoder) if len(scenes.held) else None
        order: Order = Flat(len(train), training.batch_size, training.seed)
        tell_scale(train, model.codec, workshop)
        pools = (train,) if held is None else (train, held)
        return _Latents(train, pools, held, order, scenes.facts)
    check_multiple("data.multiple", data.multiple, factor)
    pictures = open_pictures(data, workshop, captions=True)
    moving = data.random_crop or data.flip > 0
    background = data.background
    order = pictures.order(training.batch_size, training.seed, workshop)
    kept: PoolsBySize | None = None
    found: Data[LatentBatch]
    if moving:
        if model.text.spec.vector == "refiner":
            raise RequestError("data.random_crop and data.flip are not for the refiner: leave out")
        learn = pictures.data(pictures.train, data, workshop, words=True, order=order)
        found = EncodedPictures(learn, model.codec, model.text, config.noise.latents)
        workshop.say("crops and mirror images are drawn, so latents are computed in every step")
    else:
        used = few(pictures.train, workshop)
        if workshop.trial:
            order = Flat(len(used), TRIAL, training.seed)
        found, kept = of_pictures(used, pictures.wording, background, encoder)
        tell_scale(kept, model.codec, workshop)
    held = None
    if len(pictures.held):
        some = few(pictures.held, workshop)
        _, held = of_pictures(some, pictures.wording, background, encoder)
    return _Latents(
        found, tuple(p for p in (kept, held) if p is not None), held, order, pictures.facts
    )


def few(pictures: Pictures, workshop: Workshop) -> Pictures:
    """All pictures; for a trial a few of one size."""
    if not workshop.trial:
        return pictures
    same = [i for i, p in enumerate(pictures.places) if p.bucket == pictures.places[0].bucket]
    return pictures.take(same[:TRIAL])


def check_multiple(key: str, value: int, factor: int) -> None:
    """Raise RequestError unless a side divides: the U-Net halves its input at each level."""
    if value % factor:
        raise RequestError(
            f"{key} must be a multiple of {factor} for this autoencoder and U-Net; got {value}. "
            f"The nearest are {max(factor, value // factor * factor)} and "
            f"{(value // factor + 1) * factor}"
        )


class _Watch(DiffusionWatch):
    """Figures over all sizes of held-out pictures, and previews."""

    def __init__(
        self, task: DiffusionTask, held: Sequence[Validation], workshop: Workshop,
        **previews: object,
    ) -> None:  # fmt: skip
        super().__init__(task, None, **previews)  # type: ignore[arg-type]
        self._held, self._warn = held, workshop.warn
        self._last: int | None = None

    def validate(self, moment: Moment) -> Mapping[str, float]:
        with self._judged(moment):
            figures = over_all(self._held, self.task)
            if moment.first and self._due(moment.step):
                self._draw(moment)
        return figures

    def warned(self, text: str) -> None:
        self._warn(text)

    def _due(self, step: int) -> bool:
        return self.preview_every > 0 and step % self.preview_every == 0


def _watch(
    config: DiffusionRun,
    task: DiffusionTask,
    model: Learned,
    found: _Latents,
    workshop: Workshop,
) -> _Watch:
    held = [] if found.held is None else [
        Validation(pool, range(len(pool)), min(JUDGED, len(pool))) for pool in found.held.pools
    ]  # fmt: skip
    section = config.previews
    if section is None:
        return _Watch(task, held, workshop)
    side = config.data.size
    previews = Previews(
        section.prompts,
        section.height or side,
        section.width or side,
        section.steps,
        section.guidance_scale,
        section.sampler,
        section.schedule,
        section.seed,
    )
    if previews.height % model.codec.factor or previews.width % model.codec.factor:
        raise RequestError(
            f"previews.height and width must be multiples of {model.codec.factor}; got "
            f"{previews.height} and {previews.width}"
        )
    every = section.every or config.training.validate_every or config.training.steps
    return _Watch(task, held, workshop, previews=previews, codec=model.codec, preview_every=every)
