"""`safelight upscale`: make a picture larger."""

from pathlib import Path
from typing import Annotated

import typer

from safelight.cli.options import request_mapping, takes_settings
from safelight.cli.shared_options import (
    OUT,
    AsJson,
    Format,
    Metadata,
    Out,
    Quality,
)


@takes_settings
def upscale(
    picture: Annotated[
        Path, typer.Argument(help="The picture to make larger.", show_default=False)
    ],
    prompt: Annotated[
        str | None, typer.Argument(help="What it shows, for an upscaler model that reads.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--with", help="Lanczos, Nearest, or the file of an ESRGAN-like network."),
    ] = None,
    out: Out = OUT,
    format: Format = None,
    quality: Quality = None,
    metadata: Metadata = True,
    json: AsJson = False,
    **settings: object,
) -> None:
    """Make a picture larger, by a network or plainly (--with), or by Stable Diffusion's x4 upscaler
    (--model), which draws.

    How large is said by --scale or --size; else it is what the network or model makes of it. To
    draw over what was made larger: safelight edit photo.png "..." --scale 2 --upscaler FILE --tile
    512.
    """
    from safelight.cli.drawing import Saving, draw_as
    from safelight.cli.upscaling import request_of

    request = request_of(picture, prompt, by, request_mapping(settings))
    draw_as([request], Saving(out, format, quality, metadata, as_json=json))
