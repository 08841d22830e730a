"""Options that several verbs have besides the settings of a drawing."""

from pathlib import Path
from typing import Annotated

import typer

OUT = Path("out")

Out = Annotated[
    Path, typer.Option("--out", "-o", help="A folder, or the file of a single picture.")
]
Format = Annotated[
    str | None, typer.Option("--format", help="png, jpg or webp, in a folder [png].")
]
Quality = Annotated[
    int | None, typer.Option("--quality", help="1 to 100, for JPEG [95] and WebP [lossless].")
]
SaveSteps = Annotated[
    bool, typer.Option("--save-steps", help="Also save the estimate after every step.")
]
Like = Annotated[
    Path | None, typer.Option("--like", help="Start from the settings that a picture carries.")
]
Metadata = Annotated[
    bool, typer.Option("--metadata/--no-metadata", help="Store the recipe in the file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a picture.")]
StyleNames = Annotated[
    list[str] | None, typer.Option("--style", help="A style by name; see --styles. Repeatable.")
]
Styles = Annotated[
    Path | None,
    typer.Option("--styles", help="The table of styles, as A1111 has it [styles.csv]."),
]
WildcardFolder = Annotated[
    Path | None, typer.Option("--wildcards", help="Folder of the lists that __name__ picks from.")
]
Dynamic = Annotated[
    bool, typer.Option("--dynamic/--no-dynamic", help="Read {a|b} and __name__ as choices.")
]
WithinBudget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Time and memory to draw within, such as '60s 4GB' or either: chooses type, parts in "
        "memory and bands, and says what it expects.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset", help="fast: 10 steps of UniPC, about half the time; options beside it win."
    ),
]
WordMaps = Annotated[
    bool,
    typer.Option("--word-maps", help="Also save where each word acted, as NAME-words.png."),
]
Words = Annotated[
    str | None,
    typer.Option("--words", help="Word maps of these alone: 'red apple,table'."),
]
