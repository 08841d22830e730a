"""From a network to a denoiser: the one place where scalings, time and condition meet.

Shapes: B batch, C latent channels, h w latent height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from safelight.condition import Condition, expand
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

        A condition for one picture serves the whole batch. The result has x's type and device;
        sigma may be float64 on the CPU, which keeps the scalings exact.
        """
        sigma = sigma.expand(x.shape[0])
        scalings = self.process.prediction.scalings(sigma)
        c_skip, c_out, c_in = (c.to(x.dtype).to(x.device)[:, None, None, None] for c in scalings)
        time = self.process.time(sigma).to(x.dtype).to(x.device)
        return c_skip * x + c_out * self.network(c_in * x, time, expand(condition, x.shape[0]))

    def given(self, condition: Condition) -> Denoise:
        """The denoiser with its condition fixed: what a sampler takes."""
        return lambda x, sigma: self(x, sigma, condition)
