"""Adapters from files to a file: joined, resized, extracted, or in other names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from safelight.adapters.adapter import Adapter
from safelight.checkpoints.adapter_save import AdapterLayout, save_adapter
from safelight.checkpoints.finite import check_cast
from safelight.checkpoints.library import short_name
from safelight.checkpoints.made_by import Ingredient, MadeBy
from safelight.errors import RequestError
from safelight.families import Family
from safelight.merging.adapter_inputs import Given, family_for, given
from safelight.merging.adapters import JOININGS, combined, resized
from safelight.merging.extract import Extracted, Scope, extract
from safelight.merging.low_rank import RankRule
from safelight.merging.plan import DENSITIES, Taken, checked_numbers
from safelight.merging.sources import Progress
from safelight.printable import shown


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, and what should be said of it."""

    path: Path
    made: MadeBy
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """Where an adapter goes, in which names and type; dtype None is that of the first input."""

    path: Path
    layout: AdapterLayout = "kohya"
    dtype: torch.dtype | None = None


def merge_adapters(
    adapters: Sequence[Taken],
    output: Output,
    *,
    method: str = "sum",
    rule: RankRule | None = None,
    density: float | None = None,
    seed: int | None = None,
    model: Path | None = None,
) -> Written:
    """Write one adapter that does what several do together; see `adapters.combined`.

    model: what they are for; None finds the published family. Raises RequestError for a method
    that adapters cannot be joined by, and what loading and saving raise.
    """
    if method not in JOININGS:
        raise RequestError(f"adapters are joined by {', '.join(JOININGS)}; got {shown(method)!r}.")
    share, start = checked_numbers(method, density, seed)
    family = family_for([each.path for each in adapters], model)
    found = given(adapters, family)
    made = combined(
        [(each.adapter, each.strengths) for each in found],
        family,
        name=output.path.stem,
        method=method,
        rule=rule,
        density=share,
        seed=start,
    )
    settings: dict[str, object] = {"method": method} | (rule.to_json() if rule else {})
    if method in DENSITIES:
        settings["density"] = share
    if method.startswith("dare"):
        settings["seed"] = start
    notes = [note for each in found for note in each.notes] + [made.tally.said()]
    return _written("merge", made.adapter, found, family, output, settings, notes)


def resize_adapter(
    source: Path, output: Output, rule: RankRule, *, model: Path | None = None
) -> Written:
    """Write an adapter with its ranks changed; see `adapters.resized`."""
    family = family_for([source], model)
    found = given([Taken(source)], family)
    made = resized(found[0].adapter, family, rule)
    notes = [*found[0].notes, made.tally.said()]
    return _written("resize", made.adapter, found, family, output, rule.to_json(), notes)


def convert_adapter(source: Path, output: Output, *, model: Path | None = None) -> Written:
    """Write an adapter in other names or another type; its changes stay what they are."""
    family = family_for([source], model)
    found = given([Taken(source)], family)
    settings = {"layout": output.layout}
    return _written("convert", found[0].adapter, found, family, output, settings, found[0].notes)


def extract_adapter(
    tuned: Path,
    base: Path,
    output: Output,
    rule: RankRule,
    scope: Scope,
    *,
    ema: bool = False,
    variant: str | None = None,
    prediction: str | None = None,
    progress: Progress = lambda done, whole: None,
) -> Written:
    """Write as an adapter what one model learned since another; see `extract.extract`."""
    found: Extracted = extract(
        tuned,
        base,
        rule,
        scope,
        name=output.path.stem,
        ema=ema,
        variant=variant,
        prediction=prediction,
        progress=progress,
    )
    stated = {"ema": ema or None, "variant": variant, "prediction": prediction}
    told = {name: value for name, value in stated.items() if value is not None}
    settings = rule.to_json() | scope.to_json() | told
    made = MadeBy("extract", settings | _typed(output), found.inputs, found.notes)
    _save(found.adapter, found.family, output, made)
    return Written(output.path, made, (*found.notes, found.tally.said()))


def _written(
    verb: str,
    adapter: Adapter,
    found: Sequence[Given],
    family: Family,
    output: Output,
    settings: Mapping[str, object],
    notes: Sequence[str],
) -> Written:
    inputs: list[Ingredient] = [each.ingredient() for each in found]
    dtype = output.dtype or _type_of(found[0].adapter)
    wanted = Output(output.path, output.layout, dtype)
    made = MadeBy(verb, {**settings, **_typed(wanted)}, inputs, notes)
    _save(adapter, family, wanted, made)
    return Written(output.path, made, tuple(notes))


def _save(adapter: Adapter, family: Family, output: Output, made: MadeBy) -> None:
    for part, path, delta in adapter:
        for name, tensor in delta.named_parameters():
            if output.dtype is not None:
                label = f"{part}.{path}.{name}"
                check_cast(label, tensor, tensor.to(output.dtype), adapter.name)
    about = replace(adapter.about, metadata=_still_true(adapter.about.metadata))
    save_adapter(
        replace(adapter, about=about),
        output.path,
        family,
        layout=output.layout,
        dtype=output.dtype,
        metadata=made.remarks(title=output.path.stem),
    )


def _still_true(metadata: Mapping[str, str]) -> dict[str, str]:
    """The remarks without hashes, which were of the tensors before."""
    return {
        name: text
        for name, text in metadata.items()
        if not name.startswith("sshs_") and name != "modelspec.hash_sha256"
    }


def _typed(output: Output) -> dict[str, object]:
    typed = {} if output.dtype is None else {"dtype": short_name(output.dtype)}
    return {"layout": output.layout, **typed}


def _type_of(adapter: Adapter) -> torch.dtype:
    """The type of the first tensor: files hold one type but for alphas."""
    return next(p.dtype for _, _, delta in adapter for p in delta.parameters())
