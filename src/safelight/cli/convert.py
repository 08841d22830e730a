"""`safelight convert`: a model or an adapter in another layout or type."""

from pathlib import Path
from typing import Annotated

import typer

from safelight.cli.adapter_options import For


def convert(
    source: Annotated[
        str, typer.Argument(help="A model's or adapter's file, a Diffusers folder, or a name.")
    ],
    target: Annotated[Path, typer.Argument(help="A new .safetensors file, or a new folder.")],
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            help="diffusers (a folder) or single [by the target]; of an adapter kohya [usual] or "
            "diffusers.",
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="fp32, bf16 or fp16 [as they are].")
    ] = None,
    vae: Annotated[
        str | None, typer.Option("--vae", help="Put in another autoencoder: its file or folder.")
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema/--no-ema", help="Take the EMA weights of a file that has both.")
    ] = False,
    variant: Annotated[
        str | None, typer.Option("--variant", help="fp16 and the like, of a folder's files.")
    ] = None,
    prediction: Annotated[
        str | None, typer.Option("--prediction", help="eps, v, x0, flow or edm [as the file says].")
    ] = None,
    zero_snr: Annotated[
        bool | None,
        typer.Option("--zero-snr/--no-zero-snr", help="Zero terminal SNR [as the file says]."),
    ] = None,
    model: For = None,
) -> None:
    """Write a model or an adapter in another file layout or type.

    A model from a Diffusers folder to one file of the original layout and back; an adapter from
    kohya's names to Diffusers' and back. Weights keep their bits unless --dtype is given. What is
    of no use for drawing (a second set of weights, training's state) is left behind, and said.
    The result carries its recipe; nothing that exists is replaced.
    """
    from safelight.cli.converting import convert_model

    convert_model(
        source,
        target,
        layout=layout,
        dtype=dtype,
        vae=vae,
        ema=ema,
        variant=variant,
        prediction=prediction,
        zero_terminal_snr=zero_snr,
        model=model,
    )
