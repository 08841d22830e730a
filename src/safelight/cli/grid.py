"""`safelight grid`: vary settings into a contact sheet."""

from pathlib import Path
from typing import Annotated

import typer

from safelight.cli.options import request_mapping, takes_settings
from safelight.cli.shared_options import (
    AsJson,
    Dynamic,
    Like,
    Metadata,
    StyleNames,
    Styles,
    WildcardFolder,
)

OUT = Path("out")


@takes_settings
def grid(
    prompt: Annotated[str | None, typer.Argument(help="What to draw.")] = None,
    x: Annotated[
        list[str] | None,
        typer.Option("-x", help="Columns: NAME=VALUE,VALUE,... with an option's name."),
    ] = None,
    y: Annotated[list[str] | None, typer.Option("-y", help="Rows.")] = None,
    z: Annotated[list[str] | None, typer.Option("-z", help="Sheets.")] = None,
    leave_out: Annotated[
        bool,
        typer.Option(
            "--leave-out", help="Columns: the whole prompt, then without each of its phrases."
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The PNG file to write, or a folder.")
    ] = OUT,
    cells: Annotated[
        Path | None, typer.Option("--cells", help="Also save each cell's picture to this folder.")
    ] = None,
    metadata: Metadata = True,
    json: AsJson = False,
    like: Like = None,
    style: StyleNames = None,
    styles: Styles = None,
    wildcards: WildcardFolder = None,
    dynamic: Dynamic = True,
    **settings: object,
) -> None:
    """Vary any settings into a labelled contact sheet.

    -x steps=10,20,30 -y "sampler=Euler,DPM++ 2M" draws two rows of three. Ranges: seed=1-4 counts
    up, cfg=3-9(+2) by 2, cfg=3-9[4] takes 4 values. -x prompt=cat,dog replaces cat in the prompt by
    each; --leave-out shows what each phrase of the prompt does. All cells have the same seed unless
    an axis says otherwise. Each cell's recipe is in the sheet: `safelight replay sheet.png --cell
    2,3`.
    """
    from safelight.cli.griddrawing import draw_grid, the_only
    from safelight.cli.wishes import Wishes

    wishes = Wishes(
        prompt=prompt,
        settings=request_mapping(settings),
        like=like,
        style_names=tuple(style or ()),
        styles=styles,
        wildcards=wildcards,
        dynamic=dynamic,
    )
    axes = [the_only(given, flag) for given, flag in ((x, "-x"), (y, "-y"), (z, "-z"))]
    draw_grid(
        wishes, axes, out=out, cells=cells, metadata=metadata, as_json=json, leave_out=leave_out
    )
