"""Averages of the weights over training: the classic one, and power functions of time.

A power-function average of exponent gamma weighs step t of T like t**gamma: it forgets its start
and its width is a fixed share `sigma_rel` of the run, however long that is. Karras et al. 2024
(arXiv:2312.02696), section 3.1.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from safelight.errors import RequestError
from safelight.printable import shown


@dataclass(frozen=True, slots=True)
class Classic:
    """An exponential average of decay (1 + n) / (10 + n) at its n-th update, at most `decay`."""

    decay: float = 0.9999

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise RequestError(f"the decay of an average must be in [0, 1); got {self.decay}")

    @property
    def name(self) -> str:
        return f"classic:{self.decay:g}"

    def kept(self, update: int) -> float:
        """How much of the average the n-th update keeps; the first is 1."""
        return min(self.decay, (1 + update) / (10 + update))


@dataclass(frozen=True, slots=True)
class Power:
    """A power-function average whose standard deviation is `sigma_rel` of the run so far."""

    sigma_rel: float = 0.10

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_rel < MAX_SIGMA_REL:
            raise RequestError(
                f"sigma_rel must be between 0 and {MAX_SIGMA_REL:.4f}; got {self.sigma_rel}"
            )

    @property
    def name(self) -> str:
        return f"power:{self.sigma_rel:g}"

    def kept(self, update: int) -> float:
        """How much of the average the n-th update keeps; the first keeps nothing."""
        return math.pow(1 - 1 / update, exponent(self.sigma_rel) + 1)


EmaKind = Classic | Power
MAX_SIGMA_REL = 1 / math.sqrt(12)  # gamma = 0: all steps weigh the same


def ema_kind(text: str) -> EmaKind:
    """The average that a text names: "classic:0.9999" or "power:0.05". Raises RequestError."""
    kind, _, number = text.partition(":")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if kind not in ("classic", "power") or math.isnan(value):
        raise RequestError(
            f"ema must be classic:DECAY or power:SIGMA_REL, as classic:0.9999; got {shown(text)}"
        )
    return Classic(value) if kind == "classic" else Power(value)


def exponent(sigma_rel: float) -> float:
    """gamma of the power function whose relative standard deviation is sigma_rel.

    The largest root of sigma_rel**2 = (gamma + 1) / ((gamma + 2)**2 (gamma + 3)).
    Karras et al. 2024, algorithm 2: 0.05 gives 16.97 and 0.10 gives 6.94.
    """
    t = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]).real.max())


class Average:
    """One running average of a list of float32 weights, on their device."""

    def __init__(self, kind: EmaKind, weights: Sequence[Tensor], updates: int = 0) -> None:
        self.kind = kind
        self.updates = updates
        self.values = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor]) -> None:
        """Take in the weights after one optimizer step."""
        self.updates += 1
        if self.values:
            share = 1 - self.kind.kept(self.updates)
            torch._foreach_lerp_(self.values, list(weights), share)


@contextmanager
def swapped(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the module holds these weights, cast to its types; after, its own, bit for bit.

    The memory of the module stays the same, so a compiled module need not be compiled again.
    Names are those of its parameters and buffers; those not named keep their values.
    """
    places = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    unknown = sorted(set(weights) - set(places))
    if unknown:
        raise RequestError(f"the network has no weights named {shown(', '.join(unknown))}")
    targets = [places[name].detach() for name in weights]
    sources = [
        weights[name].detach().to(target.device)
        for name, target in zip(weights, targets, strict=True)
    ]
    own = [target.clone() for target in targets]
    try:
        _copy(targets, sources)
        yield
    finally:
        _copy(targets, own)


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        with torch.no_grad():
            torch._foreach_copy_(targets, sources)
