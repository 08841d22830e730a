"""`safelight upscale`: make a picture larger."""

from pathlib import Path
from typing import Annotated

import typer

from safelight.cli.generate import OUT
from safelight.cli.options import AsJson, Metadata, request_mapping, takes_settings


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
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A folder, or the file of the picture.")
    ] = OUT,
    format: Annotated[
        str | None, typer.Option("--format", help="png, jpg or webp, in a folder [png].")
    ] = None,
    quality: Annotated[
        int | None, typer.Option("--quality", help="1 to 100, for JPEG [95] and WebP [lossless].")
    ] = None,
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
    from safelight.cli.destination import destination
    from safelight.cli.drawing import draw
    from safelight.cli.upscaling import request_of

    request = request_of(picture, prompt, by, request_mapping(settings))
    target = destination(
        out, format=format, quality=quality, metadata=metadata, pictures=request.count
    )
    draw([request], target, save_steps=False, as_json=json)
