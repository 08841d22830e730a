"""What `safelight convert` does once it is asked to."""

from collections.abc import Mapping
from pathlib import Path

from safelight.checkpoints.library import SUFFIXES, find_model
from safelight.checkpoints.save import Layout, convert
from safelight.cli.adapter_files import rename
from safelight.cli.written import chosen_dtype, must_be_new, tell_written
from safelight.errors import RequestError
from safelight.merging.adapter_inputs import is_adapter

_FOR_MODELS = ("--vae", "--ema", "--variant", "--prediction", "--zero-snr")
LAYOUTS: dict[str, Layout] = {"diffusers": "diffusers", "single": "ldm"}


def convert_model(
    source: str,
    target: Path,
    *,
    layout: str | None,
    dtype: str | None,
    vae: str | None,
    ema: bool,
    variant: str | None,
    prediction: str | None,
    zero_terminal_snr: bool | None,
    model: str | None,
) -> None:
    """Write the model or adapter and say where it is.

    Raises RequestError for a layout, type or target that cannot be, and what `save.convert` raises.
    """
    found = find_model(source)
    if is_adapter(found):
        stated = (vae, ema, variant, prediction, zero_terminal_snr)
        _refuse_for_adapters(dict(zip(_FOR_MODELS, stated, strict=True)))
        rename(found, target, layout=layout, dtype=dtype, model=model)
        return
    if model is not None:
        raise RequestError("--model is for adapters; a model is converted here. Leave it out.")
    wanted = chosen_dtype(dtype)
    chosen = layout_of(target, layout)
    must_be_new(target)
    left = convert(
        found,
        target,
        chosen,
        dtype=wanted,
        vae=None if vae is None else find_model(vae, what="autoencoder"),
        ema=ema,
        variant=variant,
        prediction=prediction,
        zero_terminal_snr=zero_terminal_snr,
        recipe=True,
    )
    tell_written(target, left)


def _refuse_for_adapters(stated: Mapping[str, object]) -> None:
    """Raise RequestError for an option that says nothing of an adapter."""
    for flag, value in stated.items():
        if value not in (None, False):
            raise RequestError(f"{flag} is for models; an adapter is converted here. Leave it out.")


def layout_of(target: Path, layout: str | None) -> Layout:
    """The layout that was asked for; else that of the target's name."""
    named_as_file = target.suffix.lower() in SUFFIXES
    if layout is None:
        return "ldm" if named_as_file else "diffusers"
    if layout not in LAYOUTS:
        raise RequestError(f"--layout must be {' or '.join(LAYOUTS)}; got {layout!r}.")
    if layout == "diffusers" and named_as_file:
        raise RequestError(f"the layout diffusers is a folder; {target} is named as a file.")
    return LAYOUTS[layout]
