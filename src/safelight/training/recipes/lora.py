"""The recipe of adapters: a model stays as it is, and small changes of its layers learn."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from safelight.errors import RequestError
from safelight.printable import shown
from safelight.training.config.configs import LoraRun
from safelight.training.diffusion_task import DiffusionTask
from safelight.training.recipes.adapting import readers, taught_layers, written
from safelight.training.recipes.diffusion import diffusion_settings
from safelight.training.recipes.job import Job, Weights, Workshop
from safelight.training.recipes.learning_data import learning_data
from safelight.training.recipes.taught import taught
from safelight.training.recipes.watching import watch_of
from safelight.training.settings import Settings, stands_for
from safelight.training.taught_layers import PLAYER, TaughtLayers
from safelight.training.text_states import FrozenText, LearningText


def lora_job(config: LoraRun, workshop: Workshop) -> Job:
    """An adapter of a frozen model, of any kind that can be taught.

    Raises what reading data and weights raises, RequestError for what does not fit together.
    """
    model = taught(config, workshop)
    identity = model.identity
    # The class is drawn, and latents are made, by the model as it is.
    data = learning_data(config, model.reader, workshop)
    layers = taught_layers(config.adapter, model, config, workshop)
    settings = rated(config.training.settings(), layers)
    reads = LearningText if set(layers.deltas) - {"unet"} else FrozenText
    task = DiffusionTask(
        model.network,
        model.model.process,
        reads(model.text),
        diffusion_settings(config.noise, scratch=False),
        layers,
        PLAYER,
    )
    watch = watch_of(config.previews, config, task, model.codec, data.held, workshop)

    def write(weights: Weights, path: Path) -> list[Path]:
        layers.load_state_dict(weights[PLAYER], strict=True)
        return written(config, layers, model, path, {"steps": str(settings.steps)})

    return Job(
        task,
        data.train,
        data.order,
        settings,
        write,
        (PLAYER,),
        watch.validate,
        (
            *data.facts,
            described(layers, model.model.family.label),
            *readers(layers, config.export.layout),
        ),
        model.frozen,
        data.kept,
        identity={**identity, **data.identity},
        workshop=workshop,
    )


def described(layers: TaughtLayers, label: str) -> str:
    """What learns, in words."""
    kinds = dict.fromkeys(d.kind for part in layers.deltas.values() for d in part.values())
    count = sum(p.numel() for p in layers.parameters())
    where = " and ".join(f"{len(found)} of {part}" for part, found in layers.deltas.items())
    return f"{', '.join(kinds)} of {count / 1e6:.2f} million weights for {where}, of {label}"


def rated(settings: Settings, layers: nn.Module, inside: str = "") -> Settings:
    """The settings, with rates by the names that the weights have in their player.

    inside: what stands before them there. Raises RequestError for a rate of what does not learn.
    """
    names = [name for name, _ in layers.named_parameters()]
    for name in settings.rates:
        if not any(stands_for(name, weight) for weight in names):
            parts = shown(", ".join(dict.fromkeys(w.split(".")[0] for w in names)), 80)
            raise RequestError(
                f"training.rates.{name!r} stands for nothing that learns; name a part ({parts}), "
                "the start of a path such as unet.down_blocks.1, or a pattern such as '*.up'"
            )
    return replace(settings, rates={f"{inside}{name}": r for name, r in settings.rates.items()})
