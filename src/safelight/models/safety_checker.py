"""The safety checker of Stable Diffusion 1: CLIP's view of a picture against embedded concepts.

Rando et al. 2022 (arXiv:2210.04610) describe it; the published weights are those of CompVis,
`stable-diffusion-safety-checker`. They hold 17 concepts and 3 of special care as embeddings alone:
which words they stand for was not published.

Shapes: B pictures, P width of CLIP's space, K concepts, S side of a picture in pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from safelight.models.clip import CLIP_VISION_L, ClipVision, ClipVisionConfig, similarity

CARE = 0.01
"""What one concept of special care in a picture adds to all scores after it."""
DIGITS = 3  # scores are rounded before they are compared with 0


@dataclass(frozen=True)
class SafetyCheckerConfig:
    """The shape of a safety checker. concepts, special: how many of each it holds."""

    vision: ClipVisionConfig = CLIP_VISION_L
    concepts: int = 17
    special: int = 3


@dataclass(frozen=True, slots=True)
class SafetyScores:
    """How far one picture is beyond the threshold of each concept; above 0 it resembles it.

    special: concepts that do not count by themselves, but make the others more sensitive.
    """

    special: tuple[float, ...]
    concepts: tuple[float, ...]

    @property
    def found(self) -> tuple[int, ...]:
        """The numbers of the concepts that the picture resembles."""
        return tuple(number for number, score in enumerate(self.concepts) if score > 0)

    @property
    def flagged(self) -> bool:
        """Whether it resembles any."""
        return bool(self.found)


class SafetyChecker(nn.Module):
    """A vision tower and the concepts that its embeddings are compared with."""

    __call__: Callable[..., list[SafetyScores]]

    def __init__(self, config: SafetyCheckerConfig) -> None:
        """Raises ValueError for a vision tower without projection."""
        super().__init__()
        if (width := config.vision.projection) is None:
            raise ValueError("the vision tower of a safety checker ends in a projection")
        self.config = config
        self.vision = ClipVision(config.vision)
        self.concept_embeds = nn.Parameter(torch.ones(config.concepts, width))
        self.special_care_embeds = nn.Parameter(torch.ones(config.special, width))
        # thresholds of the cosines; they are called weights in every published file
        self.concept_embeds_weights = nn.Parameter(torch.ones(config.concepts))
        self.special_care_embeds_weights = nn.Parameter(torch.ones(config.special))

    def forward(self, views: Tensor) -> list[SafetyScores]:
        """The scores of pictures (B, 3, S, S) that were made to fit the vision tower."""
        embeds = self.vision(views).embeds  # (B, P)
        assert embeds is not None
        special = similarity(embeds, self.special_care_embeds) - self.special_care_embeds_weights
        concepts = similarity(embeds, self.concept_embeds) - self.concept_embeds_weights
        return [
            scored(*both) for both in zip(special.tolist(), concepts.tolist(), strict=True)
        ]  # (B, K) each


def scored(special: Sequence[float], concepts: Sequence[float]) -> SafetyScores:
    """The scores of a picture whose cosines exceed the thresholds by these."""
    adjustment, cared = 0.0, []
    for margin in special:
        cared.append(round(margin + adjustment, DIGITS))
        if cared[-1] > 0:
            adjustment = CARE
    found = tuple(round(margin + adjustment, DIGITS) for margin in concepts)
    return SafetyScores(tuple(cared), found)
