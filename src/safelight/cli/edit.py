"""`safelight edit`: draw on a picture."""

from pathlib import Path
from typing import Annotated

import typer

from safelight.cli.options import request_mapping, takes_settings
from safelight.cli.shared_options import (
    OUT,
    AsJson,
    Dynamic,
    Format,
    Like,
    Metadata,
    Out,
    Preset,
    Quality,
    SaveSteps,
    StyleNames,
    Styles,
    WildcardFolder,
    WithinBudget,
    WordMaps,
    Words,
)


@takes_settings
def edit(
    picture: Annotated[
        Path | None, typer.Argument(help="The picture to start from.", show_default=False)
    ] = None,
    prompt: Annotated[
        str | None, typer.Argument(help="What to draw; '' draws without a text.")
    ] = None,
    out: Out = OUT,
    format: Format = None,
    quality: Quality = None,
    metadata: Metadata = True,
    save_steps: SaveSteps = False,
    word_maps: WordMaps = False,
    words: Words = None,
    json: AsJson = False,
    budget: WithinBudget = None,
    preset: Preset = None,
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
    from safelight.cli.drawing import Saving, draw_as
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
        preset=preset,
    )
    maps = wanted_maps(word_maps, words)
    saving = Saving(out, format, quality, metadata, save_steps, json, maps, budget, preset)
    draw_as(requests_of(wishes), saving)
