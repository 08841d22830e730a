"""`safelight resize`: an adapter of another rank."""

from typing import Annotated

import typer

from safelight.cli.adapter_options import (
    AdapterTarget,
    ConvRank,
    Dtype,
    Energy,
    For,
    Frobenius,
    Names,
    Rank,
)


def resize(
    adapter: Annotated[str, typer.Argument(help="A LoRA, LoCon, LoHa or LoKr: its file.")],
    target: AdapterTarget,
    rank: Rank = None,
    conv_rank: ConvRank = None,
    energy: Energy = None,
    frobenius: Frobenius = None,
    layout: Names = "kohya",
    dtype: Dtype = None,
    model: For = None,
) -> None:
    """Bring an adapter to another rank, as near to what it was as that rank can be.

    What is kept is told as a share of the norm of all changes. The result is a LoRA.
    """
    from safelight.cli.adapter_files import resize as resized
    from safelight.cli.adapter_files import rule_or_none

    resized(
        adapter,
        target,
        rule=rule_or_none(rank, conv_rank, energy, frobenius),
        layout=layout,
        dtype=dtype,
        model=model,
    )
