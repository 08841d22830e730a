"""The recipe of latent diffusion: a U-Net from scratch, or the whole of one that is fine-tuned."""

from dataclasses import replace
from pathlib import Path

import torch

from safelight.adapters.adapter import by_text_part
from safelight.checkpoints.save import save
from safelight.diffusion.draws import MixedDraw, SigmaDraw, UniformDraw, resolve_draw
from safelight.diffusion.weights import resolve_weight
from safelight.errors import RequestError
from safelight.models.backbone import Backbone
from safelight.training.config.configs import DiffusionRun, NamedSection, NoiseSection
from safelight.training.diffusion_task import PLAYER, DiffusionSettings, DiffusionTask
from safelight.training.latent_cache import codec_hash, text_hash
from safelight.training.recipes.job import Job, Weights, Workshop
from safelight.training.recipes.learned import Learned, learned
from safelight.training.recipes.learning_data import Reader, learning_data
from safelight.training.recipes.preserving import Painter
from safelight.training.recipes.watching import watch_of
from safelight.training.settings import Settings
from safelight.training.text_states import FrozenText, LearningText


def diffusion_job(config: DiffusionRun, workshop: Workshop) -> Job:
    """A U-Net that learns to predict, from noisy latents and a caption.

    Raises what reading data and weights raises, RequestError for what does not fit together.
    """
    model = learned(config, workshop)
    settings = _settings(config, model)
    how = diffusion_settings(config.noise, scratch=model.scratch)
    text = LearningText(model.text) if config.text.learns else FrozenText(model.text)
    backbone = Backbone(model.unet, checkpointing=config.noise.checkpointing)
    task = DiffusionTask(backbone, model.process, text, how, _learner(config, model))
    identity = {
        "autoencoder": codec_hash(model.codec),
        "text": text_hash(text),
        "vocabulary": model.text.tokenizer.vocabulary.digest,
        "process": repr(model.family.process),
    }

    def painter() -> Painter:
        return Painter(backbone, model.unet, model.process, model.text, model.codec)

    reader = Reader(model.codec, model.text, model.unet.config.levels, painter)
    found = learning_data(config, reader, workshop)
    watch = watch_of(config.previews, config, task, model.codec, found.held, workshop)

    def write(weights: Weights, path: Path) -> list[Path]:
        task.learner.load_state_dict(weights[PLAYER], strict=True)
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
        (*(() if config.text.learns else model.text.encoders), _module(model)),
        found.kept,
        identity={**identity, **found.identity},
    )


def _settings(config: DiffusionRun, model: Learned) -> Settings:
    """The settings of the loop, with rates by the names that the weights have there."""
    settings = config.training.settings()
    if config.text.learns:
        return settings
    bare = {name.removeprefix("unet."): rate for name, rate in settings.rates.items()}
    return replace(settings, rates=bare)


def _learner(config: DiffusionRun, model: Learned) -> torch.nn.Module:
    """What learns: the U-Net, or the text encoders with it."""
    if not config.text.learns:
        return model.unet
    if config.training.parallel == "fsdp":
        raise RequestError("text.learns needs whole weights; use training.parallel ddp")
    if model.scratch:
        raise RequestError(
            "text.learns is for a checkpoint; from scratch the recipe clip teaches the text encoder"
        )
    return torch.nn.ModuleDict({PLAYER: model.unet, **by_text_part(model.text.encoders)})


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
