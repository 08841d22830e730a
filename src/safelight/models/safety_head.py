"""LAION's safety classifiers: a few layers on CLIP's embedding of a picture, and one number out.

Published at LAION-AI/CLIP-based-NSFW-Detector (MIT) as `clip_ViT-B-32_openai_binary_nsfw_head.pth`,
`clip_ViT-L-14_...` and `clip_ViT-H-14_laion2b_...`; names of weights are theirs.

Shapes: B pictures, P width of CLIP's space.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.models.layers import Linear

EPSILON = 1e-10


@dataclass(frozen=True)
class SafetyHeadConfig:
    """widths: of the embedding, of every layer, and 1.

    normed: as the heads for OpenAI's towers are: embeddings are brought to mean 0 and variance 1,
    and the result to 0 to 1 by a sigmoid. The one for ViT-H has neither, and no activation before
    its last layer.
    """

    widths: tuple[int, ...] = (768, 64, 512, 256, 1)
    normed: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """What the layers are called in files; those of ViT-H stand between activations and drop-
        outs, but for the last."""
        count = len(self.widths) - 1
        if self.normed:
            return tuple(f"linear_{number}" for number in range(1, count + 1))
        places = [3 * number for number in range(count - 1)]
        return tuple(f"layers.{place}" for place in (*places, places[-1] + 1))


class SafetyHead(nn.Module):
    """How unsafe a picture is: unit embeddings (B, P) to (B,), about 0 to 1."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: SafetyHeadConfig) -> None:
        super().__init__()
        self.config = config
        if config.normed:
            self.norm = nn.ParameterDict(
                {
                    "mean": torch.zeros(config.widths[0]),
                    "variance": torch.ones(config.widths[0]),
                }
            )
        else:
            self.layers = nn.ModuleDict()
        for name, (width, wider) in zip(config.names, pairwise(config.widths), strict=True):
            owner, _, leaf = name.rpartition(".")
            self.get_submodule(owner).add_module(leaf, Linear(width, wider))

    def forward(self, embeds: Tensor) -> Tensor:
        """The score of each picture."""
        x = embeds
        if self.config.normed:
            x = (x - self.norm["mean"]) / (self.norm["variance"].sqrt() + EPSILON)
        *hidden, last = self.config.names
        for number, name in enumerate(hidden):
            x = self.get_submodule(name)(x)
            if self.config.normed or number < len(hidden) - 1:
                x = F.relu(x)
        scores: Tensor = self.get_submodule(last)(x)[:, 0]
        return scores.sigmoid() if self.config.normed else scores
