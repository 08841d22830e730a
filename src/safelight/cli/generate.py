"""`safelight generate`: text to pictures."""

from pathlib import Path
from typing import Annotated

import typer

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

OUT = Path("out")


@takes_settings
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="What to draw; '' draws without a text.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="A folder, or the file of a single picture."),
    ] = OUT,
    format: Annotated[
        str | None,
        typer.Option("--format", help="png, jpg or webp, in a folder [png]."),
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
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="A file with a prompt on each line.")
    ] = None,
    style: StyleNames = None,
    styles: Styles = None,
    wildcards: WildcardFolder = None,
    dynamic: Dynamic = True,
    **settings: object,
) -> None:
    """Draw pictures from a text.

    Pictures go to the folder out/ as PNG files that carry their recipe: `safelight replay` draws
    them again. Picture k of --count has seed + k.
    """
    from safelight.cli.destination import destination
    from safelight.cli.drawing import draw
    from safelight.cli.wishes import Wishes, requests_of
    from safelight.cli.word_maps import wanted_maps

    wishes = Wishes(
        prompt=prompt,
        settings=request_mapping(settings),
        like=like,
        prompts=prompts,
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
