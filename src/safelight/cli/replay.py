"""`safelight replay`: draw a picture again and compare."""

from pathlib import Path
from typing import Annotated

import typer


def replay(
    picture: Annotated[Path, typer.Argument(help="A picture, or a sheet of `safelight grid`.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Where the model is, if not found by name.")
    ] = None,
    vae: Annotated[
        Path | None, typer.Option("--vae", help="Where the autoencoder is, if not found by name.")
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option("--file", help="ROLE=PATH: where another file is, such as source=photo.png."),
    ] = None,
    cell: Annotated[
        str | None, typer.Option("--cell", help="ROW,COLUMN of a sheet, from 1.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Save the new picture here.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Draw a picture again from the recipe it carries, and compare.

    Prints `identical`, or the first difference (file, setting or version) and how far the pixels
    are apart. Exit code 0 if identical, 1 if not.
    """
    from safelight.cli.replaying import replayed

    raise typer.Exit(
        replayed(picture, model=model, vae=vae, files=file or (), cell=cell, out=out, as_json=json)
    )
