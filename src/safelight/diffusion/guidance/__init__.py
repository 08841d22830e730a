"""Guidance: whatever changes an estimate, as functions from denoisers to a denoiser."""

from safelight.diffusion.guidance.areas import Box, parse_box, region_masks
from safelight.diffusion.guidance.classifier_free import Perturbation, edited, evaluated, guided
from safelight.diffusion.guidance.clip_guided import (
    GRADIENTS,
    Gradient,
    GuidanceCost,
    Score,
    clip_guided,
)
from safelight.diffusion.guidance.composition import between, keep, regions, with_freeu
from safelight.diffusion.guidance.rules import (
    AdaptiveProjection,
    DynamicThresholding,
    Rescaled,
    Rule,
    linear,
)
from safelight.diffusion.guidance.self_attention import AttentionNetwork, self_attention_guided
from safelight.diffusion.guidance.tiled import Part, Tiled, Window, Windows, within

__all__ = [
    "GRADIENTS",
    "AdaptiveProjection",
    "AttentionNetwork",
    "Box",
    "DynamicThresholding",
    "Gradient",
    "GuidanceCost",
    "Part",
    "Perturbation",
    "Rescaled",
    "Rule",
    "Score",
    "Tiled",
    "Window",
    "Windows",
    "between",
    "clip_guided",
    "edited",
    "evaluated",
    "guided",
    "keep",
    "linear",
    "parse_box",
    "region_masks",
    "regions",
    "self_attention_guided",
    "with_freeu",
    "within",
]
