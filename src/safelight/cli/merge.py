"""`safelight merge`: models and adapters into one."""

from typing import Annotated

import typer

from safelight.cli.adapter_options import ConvRank, Dtype, Energy, For, Frobenius, Rank, Target


def merge(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[:WEIGHT]",
            help="Models of one family, adapters (LoRA and its kin), or both.",
        ),
    ],
    target: Target,
    method: Annotated[
        str,
        typer.Option("--method", help="sum, difference, slerp, ties, dare or dare-ties."),
    ] = "sum",
    base: Annotated[
        str | None,
        typer.Option("--base", help="The model that the others were trained from."),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            "--density", help="Share of each difference that is kept [ties 0.2, dare 0.5]."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Which places dare drops [0].")] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            help="diffusers (a folder) or single [by the target]; of an adapter kohya [usual] or "
            "diffusers.",
        ),
    ] = None,
    dtype: Dtype = None,
    vae: Annotated[
        str | None, typer.Option("--vae", help="Put in this autoencoder instead of merging them.")
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema/--no-ema", help="Take the EMA weights, which all must hold.")
    ] = False,
    variant: Annotated[
        str | None, typer.Option("--variant", help="fp16 and the like, of a folder's files.")
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option("--prediction", help="eps, v, x0, flow or edm, of all [as the files say]."),
    ] = None,
    zero_snr: Annotated[
        bool | None,
        typer.Option("--zero-snr/--no-zero-snr", help="Zero terminal SNR [as the files say]."),
    ] = None,
    rank: Rank = None,
    conv_rank: ConvRank = None,
    energy: Energy = None,
    frobenius: Frobenius = None,
    model: For = None,
) -> None:
    """Merge models of one family, put adapters into a model, or join adapters.

    Behind a file: a weight, FILE:0.7, and settings after commas: unet=, text=, vae= for a part;
    blocks= with 25 numbers (19 for XL), one more with BASE first, or by name, IN04:0.3,mid_block:1.
    The weights of a sum of models add up to 1: those without one share the rest. An adapter's
    weight is its strength, 1 if none is given. The result carries its recipe; nothing that exists
    is replaced.
    """
    from safelight.cli.merging import ForAdapters, ForModels, merge_files

    merge_files(
        sources,
        target,
        method=method,
        density=density,
        seed=seed,
        layout=layout,
        dtype=dtype,
        models=ForModels(base, vae, ema, variant, prediction, zero_snr),
        adapters=ForAdapters(rank, conv_rank, energy, frobenius, model),
    )
