"""Guidance: whatever changes an estimate, as functions from denoisers to a denoiser."""

from safelight.diffusion.guidance.classifier_free import Perturbation, edited, evaluated, guided
from safelight.diffusion.guidance.composition import between, keep, regions, with_freeu
from safelight.diffusion.guidance.rules import (
    AdaptiveProjection,
    DynamicThresholding,
    Rescaled,
    Rule,
    linear,
)
from safelight.diffusion.guidance.self_attention import AttentionNetwork, self_attention_guided

__all__ = [
    "AdaptiveProjection",
    "AttentionNetwork",
    "DynamicThresholding",
    "Perturbation",
    "Rescaled",
    "Rule",
    "between",
    "edited",
    "evaluated",
    "guided",
    "keep",
    "linear",
    "regions",
    "self_attention_guided",
    "with_freeu",
]
