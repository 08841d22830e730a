"""A ControlNet as a task: the U-Net stays as it is, and its ControlNet learns to make it follow.

Zhang et al. 2023 (arXiv:2302.05543). The loss is that of latent diffusion; only what the ControlNet
adds to the U-Net can lower it.

Shapes: B pictures, H W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from safelight.condition import Condition, Control
from safelight.diffusion.denoiser import Network
from safelight.errors import RequestError
from safelight.models.backbone import Backbone
from safelight.models.controlnet import ControlNet
from safelight.training.diffusion_task import DiffusionTask, LatentBatch
from safelight.training.draw import Draw
from safelight.training.task import Loss

PLAYER = "controlnet"
NAME = "learned"  # what the ControlNet is called among those of the network


@dataclass(frozen=True, slots=True)
class ControlBatch(LatentBatch):
    """Latents and captions, beside the maps of the same pictures."""

    maps: Tensor | None = None  # (B, 3 or 1, H, W) uint8, or floats in [0, 1]


@dataclass(frozen=True)
class ControlTask(DiffusionTask):
    """A ControlNet that learns; `controlled` makes the network it takes.

    map_dropout: share of maps that are shown black, as if nothing were known.
    Raises RequestError for a share that is none, and as `DiffusionTask`.
    """

    map_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.map_dropout <= 1:
            raise RequestError(f"map_dropout must be 0 to 1; got {self.map_dropout}.")

    @property
    def learner(self) -> ControlNet:
        """What learns."""
        assert isinstance(self.network, Backbone)
        found = self.network.control_networks[NAME]
        assert isinstance(found, ControlNet)
        return found

    @property
    def players(self) -> Mapping[str, nn.Module]:
        return MappingProxyType({PLAYER: self.learner})

    def parts(self, player: str) -> tuple[nn.Module, ...]:
        """What is worth compiling: the U-Net takes part in every step, though it learns nothing."""
        assert isinstance(self.network, Backbone)
        net = self.learner
        return (net, net.controlnet_cond_embedding, self.network.unet)

    def loss(self, player: str, batch: LatentBatch, draw: Draw) -> Loss:
        """The loss of latent diffusion, with the maps shown but for those dropped."""
        return super().loss(player, self._thinned(batch, draw), draw)

    def condition(self, batch: LatentBatch, dropped: Tensor | None = None) -> Condition:
        """What the network is told and shown. Raises RequestError for a batch without maps."""
        made = super().condition(batch, dropped)
        return replace(made, controls=(Control(NAME, shown(_maps(batch))),))

    def _thinned(self, batch: LatentBatch, draw: Draw) -> LatentBatch:
        if not self.map_dropout:
            return batch
        maps = _maps(batch)
        black = draw.uniform("map dropout", device=maps.device) < self.map_dropout
        return replace(batch, maps=maps.masked_fill(black[:, None, None, None], 0))  # type: ignore[call-arg]


@dataclass(frozen=True)
class Uncontrolled:
    """A network without what its condition controls: what a ControlNet is held against."""

    network: Network

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return self.network(x, time, replace(condition, controls=()))


def controlled(network: Backbone, net: ControlNet) -> Backbone:
    """The U-Net with the ControlNet: from now on the one is frozen, and the other learns.

    Raises RequestError if they do not fit together.
    """
    net.check_fits(network.unet.config)
    network.unet.requires_grad_(False)
    net.requires_grad_(True)
    return replace(network, control_networks={NAME: net})


def shown(maps: Tensor) -> Tensor:
    """Maps as a ControlNet sees them: (B, 3, H, W) float32 in [0, 1]."""
    shares = maps.float().div(255) if maps.dtype == torch.uint8 else maps.float()
    return shares.expand(-1, 3, -1, -1)


def _maps(batch: LatentBatch) -> Tensor:
    if not isinstance(batch, ControlBatch) or batch.maps is None:
        raise RequestError("a batch for a ControlNet needs maps; give a ControlBatch with them.")
    return batch.maps
