"""`safelight score`: how well texts fit pictures."""

from pathlib import Path
from typing import Annotated

import typer

from safelight.errors import FileError, RequestError
from safelight.printable import shown

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def score(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="PICTURE... TEXT...", help="Pictures (PNG, JPEG, WebP), then texts in quotes."
        ),
    ],
    clip: Annotated[
        str | None,
        typer.Option(
            "--clip",
            metavar="CLIP",
            help="Who judges: a CLIP's folder or file [the embedded model's].",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where to compute: auto, cpu, cuda, cuda:1, mps.")
    ] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, a line for each picture.")
    ] = False,
) -> None:
    """Tell how well texts fit pictures: the cosine of a CLIP's vectors, from -1 to 1.

    Of several texts also the share of each: how likely it is the right one among them.
    The arguments up to the last that is a picture's file are pictures, those behind it texts.
    """
    pictures, texts = divided(arguments)
    from safelight.cli.scoring import shown_scores

    shown_scores(pictures, texts, clip=clip, device=device, as_json=as_json)


def divided(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Pictures and texts. Raises RequestError if there is not one of each, FileError for a picture
    that is not there."""
    count = 0
    while count < len(arguments) and _is_picture(arguments[count]):
        count += 1
    pictures, texts = [Path(name) for name in arguments[:count]], arguments[count:]
    missing = next((path for path in pictures if not path.is_file()), None)
    if missing is not None:
        raise FileError(f"there is no picture {shown(missing)}.")
    if not pictures:
        raise RequestError(
            f"name a picture before the texts: {shown(arguments[0], 80)} is no picture's file."
        )
    if not texts:
        raise RequestError(
            'give a text behind the pictures: safelight score picture.png "a red apple".'
        )
    if not all(text.strip() for text in texts):
        raise RequestError("a text to compare with is empty; write what the picture may show.")
    return pictures, texts


def _is_picture(argument: str) -> bool:
    if argument.lower().endswith(SUFFIXES):
        return True
    try:
        return Path(argument).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL: a text
        return False
