"""What `safelight extract` and `safelight resize` do, and `convert` with an adapter."""

from pathlib import Path

from safelight.checkpoints.adapter_save import LAYOUTS, AdapterLayout
from safelight.checkpoints.library import find_model
from safelight.cli.progress_bar import bar
from safelight.cli.written import chosen_dtype, must_be_new, tell_written
from safelight.errors import RequestError
from safelight.merging.adapter_files import (
    Output,
    convert_adapter,
    extract_adapter,
    resize_adapter,
)
from safelight.merging.extract import Scope
from safelight.merging.low_rank import RankRule, checked_rule
from safelight.printable import shown

USUAL_RANK = 32


def adapter_names(target: Path, layout: str | None) -> AdapterLayout:
    """The names that an adapter is written in. Raises RequestError for none, and for a folder."""
    if target.suffix.lower() != ".safetensors":
        raise RequestError(
            f"an adapter is written as one .safetensors file; got {shown(target)}. Name it so."
        )
    for known in LAYOUTS:
        if (layout or LAYOUTS[0]) == known:
            return known
    raise RequestError(
        f"--layout of an adapter must be {' or '.join(LAYOUTS)}; got {shown(layout)!r}."
    )


def rule_or_none(
    rank: int | None, conv_rank: int | None, energy: float | None, frobenius: float | None
) -> RankRule | None:
    """The rule that was asked for, if one was. Raises RequestError for one that cannot be."""
    rule = checked_rule(rank, energy, frobenius, conv_rank)
    return None if rule == RankRule() else rule


def extract_from(
    tuned: str,
    target: Path,
    *,
    base: str,
    rule: RankRule | None,
    scope: Scope,
    layout: str,
    dtype: str | None,
    ema: bool,
    variant: str | None,
    prediction: str | None,
) -> None:
    """Write the adapter between two models and say how much of the difference it keeps."""
    output = Output(target, adapter_names(target, layout), chosen_dtype(dtype))
    must_be_new(target)
    with bar("layers") as progress:
        written = extract_adapter(
            find_model(tuned),
            find_model(base),
            output,
            rule or RankRule(USUAL_RANK),
            scope,
            ema=ema,
            variant=variant,
            prediction=prediction,
            progress=progress,
        )
    tell_written(target, written.notes)


def resize(
    source: str,
    target: Path,
    *,
    rule: RankRule | None,
    layout: str,
    dtype: str | None,
    model: str | None,
) -> None:
    """Write the adapter at another rank. Raises RequestError if none was asked for."""
    output = Output(target, adapter_names(target, layout), chosen_dtype(dtype))
    must_be_new(target)
    if rule is None:
        raise RequestError("say which rank is enough: --rank 8, --energy 0.9 or --frobenius 0.95.")
    made = None if model is None else find_model(model)
    written = resize_adapter(find_model(source), output, rule, model=made)
    tell_written(target, written.notes)


def rename(
    source: Path, target: Path, *, layout: str | None, dtype: str | None, model: str | None
) -> None:
    """Write the adapter in the names of another layout."""
    output = Output(target, adapter_names(target, layout), chosen_dtype(dtype))
    must_be_new(target)
    written = convert_adapter(source, output, model=None if model is None else find_model(model))
    tell_written(target, written.notes)
