"""`safelight generate`: text to pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safelight.cli.options import request_mapping, takes_settings

if TYPE_CHECKING:
    pass

OUT = Path("out")


@takes_settings
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)] = "",
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="A folder, or the file of a single picture."),
    ] = OUT,
    format: Annotated[
        str, typer.Option("--format", help="png, jpg or webp, for pictures in a folder.")
    ] = "png",
    quality: Annotated[
        int | None, typer.Option("--quality", help="1 to 100, for JPEG and WebP.")
    ] = None,
    metadata: Annotated[
        bool, typer.Option("--metadata/--no-metadata", help="Store the recipe in the picture.")
    ] = True,
    save_steps: Annotated[
        bool, typer.Option("--save-steps", help="Also save the estimate after every step.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a picture instead of text.")
    ] = False,
    like: Annotated[
        Path | None,
        typer.Option("--like", help="Start from the settings that a picture carries."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="A file with a prompt on each line.")
    ] = None,
    style: Annotated[
        list[str] | None, typer.Option("--style", help="A style by name; see --styles.")
    ] = None,
    styles: Annotated[
        Path, typer.Option("--styles", help="The table of styles, as A1111's styles.csv.")
    ] = Path("styles.csv"),
    wildcards: Annotated[
        Path | None,
        typer.Option("--wildcards", help="Folder of the lists that __name__ picks from."),
    ] = None,
    dynamic: Annotated[
        bool,
        typer.Option("--dynamic/--no-dynamic", help="Read {a|b} and __name__ as choices."),
    ] = True,
    **settings: object,
) -> None:
    """Draw pictures from a text.

    Pictures go to the folder out/ as PNG files that carry their recipe: `safelight replay` draws
    them again. Picture k of --count has seed + k.
    """
    from safelight.cli.drawing import Wishes, draw, requests_of

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
    draw(
        requests_of(wishes),
        out=out,
        suffix=f".{format.lower().lstrip('.')}",
        quality=quality,
        metadata=metadata,
        save_steps=save_steps,
        as_json=json,
    )
