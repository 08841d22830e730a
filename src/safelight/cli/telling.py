"""Warnings, and the console that they go to."""

from collections.abc import Sequence

from rich.console import Console

err = Console(stderr=True, highlight=False)


def tell(warnings: Sequence[str]) -> None:
    """Warnings on stderr, a line each."""
    for warning in warnings:
        err.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
