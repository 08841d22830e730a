"""Options of the verbs that make adapters."""

from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[
    Path, typer.Argument(help="A new .safetensors file, or for a model a new folder.")
]
AdapterTarget = Annotated[Path, typer.Argument(help="A new .safetensors file.")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="fp32, bf16 or fp16 [that of the first file].")
]
Names = Annotated[str, typer.Option("--layout", help="Names in the file: kohya or diffusers.")]
Rank = Annotated[
    int | None, typer.Option("--rank", help="Rank of an adapter's layers; at most, with a share.")
]
ConvRank = Annotated[
    int | None, typer.Option("--conv-rank", help="Rank of convolutions [as --rank].")
]
Energy = Annotated[
    float | None,
    typer.Option("--energy", help="Least rank that keeps this share of the squared values."),
]
Frobenius = Annotated[
    float | None,
    typer.Option("--frobenius", help="Least rank that keeps this share of the norm."),
]
For = Annotated[
    str | None,
    typer.Option("--model", "-m", help="The model that adapters are for [found by their layers]."),
]
