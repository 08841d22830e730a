"""How much each control changed what the network says: a control without effect is noticed.

Shapes: B batch, C latent channels, h w latent height and width.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from safelight.condition import Condition, Control, settings
from safelight.models.deep_features import Kept

NOTHING = 1e-6  # a smaller relative change than this is rounding

Key = tuple[object, ...]


class Asked(Protocol):
    """A network that takes a condition: a `Backbone`, or one that is watched."""

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor: ...

    def with_attention(
        self, x: Tensor, time: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor]: ...

    def with_deep(
        self, x: Tensor, time: Tensor, condition: Condition, *, blocks: int, kept: Kept | None
    ) -> tuple[Tensor, Kept]: ...


@dataclass(frozen=True, slots=True)
class ControlEffect:
    """The change that one control made where it first acted.

    change: root mean square of the prediction with all controls less that without this one, over
        the root mean square of the latter; 0.1 is a tenth.
    """

    net: str
    types: tuple[int, ...]
    scale: float
    change: float

    @property
    def none(self) -> bool:
        """Whether it changed nothing but rounding."""
        return self.change < NOTHING


@dataclass
class MeasuredControls:
    """A network that also measures, once for each control, how much it changes the prediction.

    Costs one call more for each control, at the first call in which it acts. A control that never
    acts, as no step lies in its range of sigma, is never measured.
    """

    network: Asked
    _found: dict[Key, ControlEffect] = field(default_factory=dict)

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """What the network says: x (B, C, h, w) -> (B, C, h, w)."""
        output = self.network(x, time, condition)
        self._measure(output, x, time, condition)
        return output

    def with_attention(
        self, x: Tensor, time: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        """What the network says, and its attention."""
        output, attention = self.network.with_attention(x, time, condition)
        self._measure(output, x, time, condition)
        return output, attention

    def with_deep(
        self, x: Tensor, time: Tensor, condition: Condition, *, blocks: int, kept: Kept | None
    ) -> tuple[Tensor, Kept]:
        """What the network says, and what of it may be kept (`Backbone.with_deep`)."""
        output, keeping = self.network.with_deep(x, time, condition, blocks=blocks, kept=kept)
        self._measure(output, x, time, condition)
        return output, keeping

    @property
    def effects(self) -> tuple[ControlEffect, ...]:
        """What was measured so far, in the order in which controls first acted."""
        return tuple(self._found.values())

    def _measure(self, output: Tensor, x: Tensor, time: Tensor, condition: Condition) -> None:
        for i, (key, control) in enumerate(_keyed(condition.controls)):
            if key in self._found:
                continue
            change = 0.0
            if not control.idle:
                others = (*condition.controls[:i], *condition.controls[i + 1 :])
                # By the same kernels: those that record a gradient round otherwise.
                with torch.set_grad_enabled(output.requires_grad):
                    without = self.network(x, time, replace(condition, controls=others))
                change = _change(output.detach(), without.detach())
            self._found[key] = ControlEffect(control.net, control.types, control.scale, change)


def _keyed(controls: tuple[Control, ...]) -> Iterator[tuple[Key, Control]]:
    """Controls by their settings, and which of several with the same ones."""
    seen: Counter[Key] = Counter()
    for control in controls:
        same = settings(control)
        yield (*same, seen[same]), control
        seen[same] += 1


def _change(output: Tensor, without: Tensor) -> float:
    difference = (output.float() - without.float()).square().mean().sqrt()
    return float(difference / without.float().square().mean().sqrt().clamp_min(1e-12))
