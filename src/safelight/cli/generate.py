"""`safelight generate`: text to pictures."""

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
def generate(
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
    from safelight.cli.drawing import Saving, draw_as
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
        preset=preset,
    )
    maps = wanted_maps(word_maps, words)
    saving = Saving(out, format, quality, metadata, save_steps, json, maps, budget, preset)
    draw_as(requests_of(wishes), saving)
