"""A network that makes pixels larger, and what it was made of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from safelight.models.super_resolution import CompactNet, RrdbNet


@dataclass(frozen=True)
class Upscaler:
    """Pictures (B, 3, H, W) in [0, 1] to (B, 3, scale H, scale W), through any network.

    name: the file's, for the user. architecture: "ESRGAN", "Real-ESRGAN compact", or what spandrel
    calls it. It runs on `device` in `dtype`.
    """

    name: str
    network: Callable[[Tensor], Tensor]
    scale: int
    architecture: str
    path: Path | None = None
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """The larger pictures, in float32 on the CPU, clamped to [0, 1]."""
        larger = self.network(pictures.to(self.device, self.dtype))
        return larger.float().clamp(0, 1).cpu()


def upscaler_of(net: RrdbNet | CompactNet, name: str, path: Path | None = None) -> Upscaler:
    """The upscaler of one of our own networks."""
    architecture = "ESRGAN" if isinstance(net, RrdbNet) else "Real-ESRGAN compact"
    weight = next(net.parameters())
    return Upscaler(name, net, net.config.scale, architecture, path, weight.device, weight.dtype)
