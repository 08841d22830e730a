"""`safelight edit`: draw on a picture."""

from pathlib import Path
from typing import Annotated

import typer

from safelight.cli.generate import OUT
from safelight.cli.options import (
    AsJson,
    Dynamic,
    Like,
    Metadata,
    StyleNames,
    Styles,
    WildcardFolder,
    WordMaps,
    Words,
    request_mapping,
    takes_settings,
)


@takes_settings
def edit(
    picture: Annotated[
        Path | None, typer.Argument(help="The picture to start from.", show_default=False)
    ] = None,
    prompt: Annotated[
        str | None, typer.Argument(help="What to draw; '' draws without a text.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A folder, or the file of a single picture.")
    ] = OUT,
    format: Annotated[
        str | None, typer.Option("--format", help="png, jpg or webp, in a folder [png].")
    ] = None,
    quality: Annotated[
        int | None, typer.Option("--quality", help="1 to 100, for JPEG [95] and WebP [lossless].")
    ] = None,
    metadata: Metadata = True,
    save_steps: Annotated[
        bool, typer.Option("--save-steps", help="Also save the estimate after every step.")
    ] = False,
    word_maps: WordMaps = False,
    words: Words = None,
    json: AsJson = False,
    like: Like = None,
    style: StyleNames = None,
    styles: Styles = None,
    wildcards: WildcardFolder = None,
    dynamic: Dynamic = True,
    **settings: object,
) -> None:
    """Draw on a picture: change all of it, repaint a part, or let it grow beyond its borders.

    Pixels outside the mask stay as they are, to the last bit. Results go to the folder out/ and
    carry their recipe: `safelight replay` draws them again beside the same picture.
    """
    from safelight.cli.destination import destination
    from safelight.cli.drawing import draw
    from safelight.cli.wishes import Wishes, requests_of
    from safelight.cli.word_maps import wanted_maps
    from safelight.errors import RequestError

    if picture is not None and "source__picture" in settings:
        raise RequestError("the picture is given twice: as the first word and with --source.")
    if picture is not None:
        settings["source__picture"] = str(picture)
    if "source__picture" not in settings and like is None:
        raise RequestError('say what to draw on: safelight edit photo.png "a red apple"')
    growing = any(name.startswith("extend") for name in settings)
    wishes = Wishes(
        prompt="" if prompt is None and growing else prompt,
        settings=request_mapping(settings),
        like=like,
        style_names=tuple(style or ()),
        styles=styles,
        wildcards=wildcards,
        dynamic=dynamic,
    )
    requests = requests_of(wishes)
    target = destination(
        out,
        format=format,
        quality=quality,
        metadata=metadata,
        pictures=sum(request.count for request in requests),
    )
    maps = wanted_maps(word_maps, words)
    draw(requests, target, save_steps=save_steps, as_json=json, maps=maps)
