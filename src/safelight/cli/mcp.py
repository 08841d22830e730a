"""`safelight mcp`: tools for programs that speak the Model Context Protocol."""

from pathlib import Path
from typing import Annotated

import typer


def mcp(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of pictures.")] = Path("out"),
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="What it draws with unless told [embedded]."),
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option("--models", help="A folder of models and LoRAs; repeatable."),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda, cuda:1, xpu or mps [the best there is].")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="fp32, bf16 or fp16 [fp32 on the CPU, fp16 elsewhere].")
    ] = "auto",
) -> None:
    """Offer generate, edit, score and models as tools, on standard input and output.

    A program starts this command itself and asks it to draw; nothing listens on a port.
    """
    from safelight.cli.mcp_serving import serve_tools

    serve_tools(out, model=model, folders=tuple(models or ()), device=device, dtype=dtype)
