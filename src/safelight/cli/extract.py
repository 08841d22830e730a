"""`safelight extract`: an adapter from two models."""

from typing import Annotated

import typer

from safelight.cli.adapter_options import AdapterTarget, ConvRank, Energy, Frobenius, Names, Rank


def extract(
    tuned: Annotated[
        str, typer.Argument(help="The model that learned: a file, a Diffusers folder or a name.")
    ],
    target: AdapterTarget,
    base: Annotated[str, typer.Option("--base", help="The model that it was trained from.")],
    rank: Rank = None,
    conv_rank: ConvRank = None,
    energy: Energy = None,
    frobenius: Frobenius = None,
    unet: Annotated[bool, typer.Option("--unet/--no-unet", help="The U-Net's layers.")] = True,
    text: Annotated[
        bool, typer.Option("--text/--no-text", help="The text encoders' layers.")
    ] = True,
    conv: Annotated[
        bool, typer.Option("--conv/--no-conv", help="Convolutions too, as LoCon has them.")
    ] = True,
    rest: Annotated[
        bool, typer.Option("--rest/--no-rest", help="Norms and biases too, as whole differences.")
    ] = False,
    layout: Names = "kohya",
    dtype: Annotated[str, typer.Option("--dtype", help="fp32, bf16 or fp16.")] = "fp16",
    ema: Annotated[
        bool, typer.Option("--ema/--no-ema", help="Take the EMA weights, which all must hold.")
    ] = False,
    variant: Annotated[
        str | None, typer.Option("--variant", help="fp16 and the like, of a folder's files.")
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option("--prediction", help="eps, v, x0, flow or edm [as the files say]."),
    ] = None,
) -> None:
    """Extract as a LoRA what one model learned since another.

    The rank is 32 unless --rank, --energy or --frobenius says otherwise. What is kept is told as
    a share of the whole difference, and what an adapter does not carry is named.
    """
    from safelight.cli.adapter_files import extract_from, rule_or_none
    from safelight.merging.extract import Scope

    extract_from(
        tuned,
        target,
        base=base,
        rule=rule_or_none(rank, conv_rank, energy, frobenius),
        scope=Scope(unet=unet, text=text, conv=conv, rest=rest),
        layout=layout,
        dtype=dtype,
        ema=ema,
        variant=variant,
        prediction=prediction,
    )
