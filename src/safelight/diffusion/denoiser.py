"""From a network to a denoiser: the one place where scalings, time and condition meet.

Shapes: B batch, C latent channels, h w latent height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from safelight.condition import Condition, active, bounded, expand, pick
from safelight.diffusion.process import Process


class Network(Protocol):
    """Eager module, compiled module, quantised module or OpenVINO session."""

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor: ...


Denoise = Callable[[Tensor, Tensor], Tensor]  # (x, sigma) -> denoised; all that a sampler knows


@dataclass(frozen=True)
class Denoiser:
    """A network together with the process it was trained for."""

    network: Network
    process: Process

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """The estimate of the clean latents in x (B, C, h, w) at sigma () or (B,).

        A condition for one picture serves the whole batch. Controls, image prompts and references
        that do not act at a picture's sigma are dropped before the network is asked. The result has
        x's type and device; sigma may be float64 on the CPU, which keeps the scalings exact.
        """
        sigma = sigma.expand(x.shape[0])
        scalings = self.process.prediction.scalings(sigma)
        c_skip, c_out, c_in = (c.to(x.dtype).to(x.device)[:, None, None, None] for c in scalings)
        time = self.process.time(sigma).to(x.dtype).to(x.device)
        told = expand(condition, x.shape[0])
        if told.references:
            told = _noised(told, c_in, sigma)
        return c_skip * x + c_out * self._ask(c_in * x, time, told, sigma)

    def _ask(self, x: Tensor, time: Tensor, condition: Condition, sigma: Tensor) -> Tensor:
        """The network's answer, one call for all pictures of which the same parts act."""
        if not bounded(condition):
            return self.network(x, time, condition)
        told = [active(condition, level) for level in sigma.tolist()]
        if all(_acting(one) == _acting(told[0]) for one in told):
            return self.network(x, time, told[0])
        apart = [
            self.network(x[i : i + 1], time[i : i + 1], pick(one, [i]))
            for i, one in enumerate(told)
        ]
        return torch.cat(apart)

    def given(self, condition: Condition) -> Denoise:
        """The denoiser with its condition fixed: what a sampler takes."""
        return lambda x, sigma: self(x, sigma, condition)


def _acting(condition: Condition) -> tuple[int, ...]:
    return tuple(id(part) for part in condition.parts)


def _noised(condition: Condition, c_in: Tensor, sigma: Tensor) -> Condition:
    """The condition whose reference pictures are at the drawing's noise level, and scaled as it."""
    level = sigma.to(c_in)[:, None, None, None]
    return replace(
        condition,
        references=tuple(
            replace(r, shown=c_in * (r.latents.to(c_in) + level * r.noise.to(c_in)))
            for r in condition.references
        ),
    )
