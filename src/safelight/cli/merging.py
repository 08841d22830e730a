"""What `safelight merge` does once it is asked to."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from safelight.checkpoints.library import find_model
from safelight.cli.adapter_files import adapter_names, rule_or_none
from safelight.cli.converting import layout_of
from safelight.cli.groups import merged_model
from safelight.cli.progress_bar import bar
from safelight.cli.written import chosen_dtype, must_be_new, tell_written
from safelight.errors import RequestError
from safelight.merging.adapter_files import Output, merge_adapters
from safelight.merging.adapter_inputs import is_adapter
from safelight.merging.merge import merge
from safelight.merging.plan import Taken, checked_plan
from safelight.merging.weights import Weights, number


@dataclass(frozen=True, slots=True)
class ForModels:
    """Options that speak of models; in the order of the command line."""

    base: str | None = None
    vae: str | None = None
    ema: bool = False
    variant: str | None = None
    prediction: str | None = None
    zero_snr: bool | None = None


@dataclass(frozen=True, slots=True)
class ForAdapters:
    """Options that speak of a new adapter."""

    rank: int | None = None
    conv_rank: int | None = None
    energy: float | None = None
    frobenius: float | None = None
    model: str | None = None


def merge_files(
    sources: Sequence[str],
    target: Path,
    *,
    method: str,
    density: float | None,
    seed: int | None,
    layout: str | None,
    dtype: str | None,
    models: ForModels,
    adapters: ForAdapters,
) -> None:
    """Write the merged model or adapter and say where it is.

    Raises RequestError for what cannot be asked for, and what `merging` raises.
    """
    wanted = chosen_dtype(dtype)
    must_be_new(target)
    every = [taken(source) for source in sources]
    low = [each for each in every if is_adapter(each.path)]
    whole = [each for each in every if each not in low]
    if not whole:
        _refuse(models, ForModels(), "adapters", "models")
        output = Output(target, adapter_names(target, layout), wanted)
        model = None if adapters.model is None else find_model(adapters.model)
        rule = rule_or_none(adapters.rank, adapters.conv_rank, adapters.energy, adapters.frobenius)
        written = merge_adapters(
            low, output, method=method, rule=rule, density=density, seed=seed, model=model
        )
        tell_written(target, written.notes)
        return
    _refuse(adapters, ForAdapters(), "models", "adapters alone")
    plan = checked_plan(
        whole,
        method,
        base=None if models.base is None else find_model(models.base),
        density=density,
        seed=seed,
        adapted=bool(low),
    )
    with bar("tensors") as progress:
        merged = merge(
            plan,
            target,
            layout_of(target, layout),
            dtype=wanted,
            vae=None if models.vae is None else find_model(models.vae, what="autoencoder"),
            prediction=models.prediction,
            zero_terminal_snr=models.zero_snr,
            ema=models.ema,
            variant=models.variant,
            adapters=low,
            progress=progress,
        )
    tell_written(target, merged.notes)


def taken(text: str) -> Taken:
    """A file and its weights of a text such as a.safetensors:0.7,text=0."""
    file, values = merged_model(text)
    blocks = values.pop("blocks", "")
    numbers = {name: number(value, f"{name} of {file}") for name, value in values.items()}
    return Taken(find_model(file), Weights(**numbers, blocks=blocks))


def _refuse(
    stated: ForModels | ForAdapters, usual: ForModels | ForAdapters, given: str, other: str
) -> None:
    """Raise RequestError for an option that says nothing of what was given."""
    for each in fields(stated):
        if getattr(stated, each.name) != getattr(usual, each.name):
            flag = each.name.replace("_", "-")
            raise RequestError(f"--{flag} is for {other}; {given} are merged here. Leave it out.")
