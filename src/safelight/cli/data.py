"""`safelight data`: look at a training set, and pack it."""

from pathlib import Path
from typing import Annotated

import typer

PARTS: dict[str, str] = {
    "check": "Count pictures, problems, sizes, buckets and caption lengths.",
    "sheet": "Draw a contact sheet of what training will see.",
    "pack": "Write it as WebDataset shards.",
}

Where = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="A folder of pictures, .tar shards, a table of captions, or a saved dataset.",
    ),
]
Caption = Annotated[
    str | None, typer.Option("--caption", help="The column or field that holds captions.")
]
Image = Annotated[
    str | None, typer.Option("--image", help="The column that holds or names pictures.")
]
Split = Annotated[str | None, typer.Option("--split", help="The split of a dataset.")]
Size = Annotated[int, typer.Option("--size", help="Side of the square bucket, in pixels.")]
Multiple = Annotated[int, typer.Option("--multiple", help="Sides are multiples of this.")]
MaxAspect = Annotated[float, typer.Option("--max-aspect", help="Longest over shortest side.")]
Upscale = Annotated[
    bool, typer.Option("--upscale/--no-upscale", help="Enlarge pictures below the size.")
]
Captions = Annotated[
    bool, typer.Option("--captions/--no-captions", help="Whether each picture needs a caption.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def data() -> None:
    """Look at a training set before it is trained on, and pack it into shards."""


def check(
    path: Where,
    caption: Caption = None,
    image: Image = None,
    split: Split = None,
    size: Size = 512,
    multiple: Multiple = 8,
    max_aspect: MaxAspect = 2.0,
    upscale: Upscale = True,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Name the buckets smaller than a batch of this.")
    ] = None,
    captions: Captions = True,
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", help="A model's or tokenizer's folder; else CLIP's own."),
    ] = None,
    on_problem: Annotated[
        str, typer.Option("--on-problem", help="skip: report and end with 0; stop: end with 2.")
    ] = "skip",
    json: Json = False,
) -> None:
    """Count pictures, problems, sizes, buckets and caption lengths; every picture is decoded.

    All problems are listed with their files: broken pictures, missing captions, captions without
    a picture, ids that are there twice, damaged shards.
    """
    from safelight.cli.data_checking import checked, show
    from safelight.training.buckets import Rule

    rule = Rule(size, multiple, max_aspect, upscale)
    found = checked(
        path,
        rule,
        columns={"caption": caption, "image": image, "split": split},
        captions=captions,
        tokenizer=tokenizer,
        on_problem=on_problem,
        batch=batch,
    )
    show(found, as_json=json)


def sheet(
    path: Where,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")],
    count: Annotated[int, typer.Option("--count", "-n", help="Pictures on the sheet.")] = 48,
    columns: Annotated[int, typer.Option("--columns", help="Pictures in a row.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Which pictures are drawn.")] = 0,
    caption: Caption = None,
    image: Image = None,
    split: Split = None,
    size: Size = 512,
    multiple: Multiple = 8,
    max_aspect: MaxAspect = 2.0,
    upscale: Upscale = True,
) -> None:
    """Draw a contact sheet: pictures as training crops them, with a caption each."""
    from safelight.cli.data_sheet import draw
    from safelight.training.buckets import Rule

    rule = Rule(size, multiple, max_aspect, upscale)
    found = {"caption": caption, "image": image, "split": split}
    typer.echo(draw(path, out, rule, columns=found, count=count, across=columns, seed=seed))


def pack(
    path: Where,
    out: Annotated[Path, typer.Argument(help="A new folder for the shards.")],
    per_shard: Annotated[int, typer.Option("--per-shard", help="Pictures in a shard.")] = 2000,
    caption: Caption = None,
    image: Image = None,
    split: Split = None,
    captions: Captions = True,
    on_problem: Annotated[
        str, typer.Option("--on-problem", help="stop, or skip what cannot be used.")
    ] = "stop",
) -> None:
    """Write a data set as WebDataset shards: pictures as they are, captions and fields as JSON."""
    from safelight.cli.data_checking import scanned
    from safelight.cli.telling import tell
    from safelight.training.sources.example import summary
    from safelight.training.sources.pack import pack as written

    columns = {"caption": caption, "image": image, "split": split}
    found = scanned(path, columns, captions=captions, on_problem=on_problem)
    if found.problems:
        tell([f"left out: {summary(found.problems)}"])
    for shard in written(found.source, out, per_shard=per_shard):
        typer.echo(shard)
