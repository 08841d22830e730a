"""`safelight inspect`: what a file is."""

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    file: Annotated[
        str,
        typer.Argument(help="A weights file, a Diffusers folder, a model's name, or a picture."),
    ],
    variant: Annotated[
        str | None, typer.Option("--variant", help="fp16 and the like, of a folder's files.")
    ] = None,
    hashes: Annotated[
        bool, typer.Option("--hash/--no-hash", help="Read it all for its SHA-256.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a weights file or a picture is and holds.

    Of weights: family and why, layout, types, hashes, and which keys are used, missing or unknown.
    Of a picture: the settings it carries, whatever program drew it.
    """
    from safelight.checkpoints.library import find_model
    from safelight.cli.inspecting import check_picture, is_picture, show_picture, show_weights

    path = Path(file)
    if is_picture(path):
        show_picture(path, as_json=json)
    else:
        check_picture(path)
        found = find_model(file, what="file")
        show_weights(found, variant=variant, hashes=hashes, as_json=json)
