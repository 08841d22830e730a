"""A tiny latent diffusion model with a ControlNet, and maps that tell where things are.

Shapes: B pictures, latents (B, 4, 8, 8), maps (B, 3, 32, 32).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lab import backbone, frozen_text, process, shapes
from models_tiny import randomised
from safelight.models.backbone import Backbone
from safelight.models.controlnet import ControlNet, controlnet_of
from safelight.training.control_task import ControlBatch, ControlTask, controlled
from safelight.training.diffusion_task import DiffusionSettings
from safelight.training.draw import Draw
from safelight.training.latent_pool import LatentPool
from safelight.training.text_states import FrozenText, tokens_of

WIDTHS = (8, 8, 16)  # 32 pixels to 8 latents
TEXT = frozen_text()
PLAIN = tokens_of(TEXT.conditioner, ["a shape"] * 8).ids


def outlines(latents: Tensor) -> Tensor:
    """Maps (B, 1, 32, 32) uint8 of latents: white where neighbours differ, as an edge map is."""
    large = F.interpolate(latents, scale_factor=4, mode="nearest")
    across = F.pad(large.diff(dim=3).abs().sum(1, keepdim=True), (0, 1))
    down = F.pad(large.diff(dim=2).abs().sum(1, keepdim=True), (0, 0, 0, 1))
    return ((across + down) > 0.1).to(torch.uint8) * 255


def colours(latents: Tensor) -> Tensor:
    """Maps (B, 3, 32, 32) uint8 of latents: three of their four channels as colours."""
    large = F.interpolate(latents[:, :3], scale_factor=4, mode="nearest")
    return ((large.clamp(-2, 2) + 2) * 63.75).to(torch.uint8)


def net(network: Backbone, seed: int = 0) -> ControlNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return controlnet_of(network.unet, widths=WIDTHS)


def task_of(
    network: Backbone | None = None,
    learner: ControlNet | None = None,
    text: FrozenText | None = TEXT,
    map_dropout: float = 0.0,
    **settings: object,
) -> ControlTask:
    """A ControlNet that as yet adds nothing, on a random U-Net."""
    base = network or backbone()
    found = learner or net(base)
    options = DiffusionSettings(**{"caption_dropout": 0.0, **settings})  # type: ignore[arg-type]
    return ControlTask(controlled(base, found), process(), text, options, map_dropout=map_dropout)


def stirred(task: ControlTask, seed: int = 3) -> ControlTask:
    """The same, with a ControlNet that adds something: its zeros at random, too."""
    learner = task.learner
    before = [p.requires_grad for p in learner.parameters()]
    randomised(learner, seed).train()
    for parameter, learns in zip(learner.parameters(), before, strict=True):
        parameter.requires_grad_(learns)
    return task


def batch(count: int = 8) -> ControlBatch:
    latents = shapes(count)
    return ControlBatch(latents, PLAIN[:count], maps=outlines(latents))


class Pool:
    """Eight pictures with their maps, in memory."""

    def __init__(
        self, maps: Callable[[Tensor], Tensor] = outlines, count: int = 8, turned: int = 0
    ) -> None:
        """turned: by how many places the maps are moved to other pictures."""
        latents = shapes(count)
        self.pool = LatentPool(latents, PLAIN[:count])
        self.maps = maps(latents).roll(turned, 0)

    def __len__(self) -> int:
        return len(self.pool)

    def batch(self, indices: list[int], draw: Draw) -> ControlBatch:
        found = self.pool.batch(indices, draw)
        return ControlBatch(found.latents, found.tokens, maps=self.maps[list(indices)])
