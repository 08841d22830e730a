"""`safelight grid`: vary settings into a contact sheet."""

from pathlib import Path
from typing import Annotated

import typer

from safelight.cli.options import request_mapping, takes_settings


@takes_settings
def grid(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)] = "",
    x: Annotated[
        str | None, typer.Option("-x", help="Columns: NAME=VALUE,VALUE,... with an option's name.")
    ] = None,
    y: Annotated[str | None, typer.Option("-y", help="Rows.")] = None,
    z: Annotated[str | None, typer.Option("-z", help="Sheets.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG file to write.")] = Path(
        "out/grid.png"
    ),
    cells: Annotated[
        Path | None, typer.Option("--cells", help="Also save each cell's picture to this folder.")
    ] = None,
    metadata: Annotated[
        bool, typer.Option("--metadata/--no-metadata", help="Store the recipe of each cell.")
    ] = True,
    like: Annotated[
        Path | None, typer.Option("--like", help="Start from the settings that a picture carries.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    **settings: object,
) -> None:
    """Vary any settings into a labelled contact sheet.

    -x steps=10,20,30 -y "sampler=Euler,DPM++ 2M" draws two rows of three. Ranges: cfg=3-9(+2)
    counts up by 2, cfg=3-9[4] takes 4 values. -x prompt=cat,dog replaces cat in the prompt by
    each. All cells have the same seed unless an axis says otherwise. Each cell's recipe is in the
    sheet: `safelight replay sheet.png --cell 2,3`.
    """
    from safelight.cli.griddrawing import draw_grid

    draw_grid(
        prompt,
        [x, y, z],
        request_mapping(settings),
        out=out,
        cells=cells,
        metadata=metadata,
        like=like,
        as_json=json,
    )
