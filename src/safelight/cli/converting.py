"""What `safelight convert` does once it is asked to."""

from pathlib import Path

from rich.filesize import decimal

from safelight.checkpoints.library import SUFFIXES, find_model
from safelight.checkpoints.save import Layout, convert
from safelight.cli.destination import taken
from safelight.engines.placement import DTYPES
from safelight.errors import RequestError
from safelight.printable import shown

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
) -> None:
    """Write the model and say where it is.

    Raises RequestError for a layout, type or target that cannot be, and what `save.convert` raises.
    """
    if dtype is not None and dtype not in DTYPES:
        raise RequestError(f"--dtype must be {', '.join(DTYPES)}; got {dtype!r}.")
    chosen = layout_of(target, layout)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise RequestError(f"{taken(target)}.")
    convert(
        find_model(source),
        target,
        chosen,
        dtype=None if dtype is None else DTYPES[dtype],
        vae=None if vae is None else find_model(vae, what="autoencoder"),
        ema=ema,
        variant=variant,
        prediction=prediction,
        zero_terminal_snr=zero_terminal_snr,
    )
    print(f"{shown(target)}  {decimal(size_of(target))}")


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


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
