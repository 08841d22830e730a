"""Figures of the steps, kept on the device until somebody reads them.

Reading a number makes the host wait for the device, so it is done once for many steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

NORM, FINITE = "grad_norm", "finite"


@dataclass(frozen=True, slots=True)
class BadStep:
    """A step that changed nothing, because its loss or its gradient was not finite."""

    step: int  # 1 is the first
    player: str
    loss: float
    grad_norm: float

    def __str__(self) -> str:
        return (
            f"in step {self.step} the loss of {self.player} was {self.loss:g} and the norm of its "
            f"gradient {self.grad_norm:g}"
        )


class Meter:
    """The figures of one player: their means over the good steps, and the bad steps."""

    def __init__(self, player: str) -> None:
        self._player = player
        self._kept: list[tuple[int, tuple[str, ...], Tensor]] = []
        self._sums: dict[str, tuple[float, int]] = {}
        self.streak: list[BadStep] = []  # those absorbed since the last good step
        self.last_good = 0  # the last step absorbed that was finite

    def keep(self, step: int, figures: Mapping[str, Tensor]) -> None:
        """Keep the scalars of a step, on their device. "loss", NORM and FINITE are among them."""
        values = torch.stack([value.detach().float() for value in figures.values()])
        self._kept.append((step, tuple(figures), values))

    def absorb(self) -> list[BadStep]:
        """Add what was kept to the means, and give the bad steps in it; waits for the device."""
        kept, self._kept = self._kept, []
        numbers = torch.cat([values for _, _, values in kept]).tolist() if kept else []
        bad: list[BadStep] = []
        for step, names, _ in kept:
            row = dict(zip(names, numbers[: len(names)], strict=True))
            numbers = numbers[len(names) :]
            if row.pop(FINITE):
                self._add(row)
                self.last_good = step
            else:
                bad.append(BadStep(step, self._player, row["loss"], row[NORM]))
                self.streak.append(bad[-1])
        return bad

    def _add(self, row: Mapping[str, float]) -> None:
        self.streak = []
        for name, value in row.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)

    def forgive(self) -> None:
        """Begin the streak of bad steps anew: their cause is gone."""
        self.streak = []

    def means(self) -> dict[str, float]:
        """The mean of each figure over the good steps absorbed since the last call."""
        sums, self._sums = self._sums, {}
        return {name: total / count for name, (total, count) in sums.items()}

    def scalars(self) -> dict[str, list[float]]:
        """What a resumed run needs to report the same means; JSON holds no NaN."""
        return {
            name: [total, count] for name, (total, count) in self._sums.items() if isfinite(total)
        }

    def restore(self, scalars: Mapping[str, object]) -> None:
        """Go on from what `scalars` gave."""
        for name, value in scalars.items():
            if isinstance(value, list) and len(value) == 2:
                self._sums[name] = (float(value[0]), int(value[1]))
