"""A safety checker a million times smaller than the published one, in its layout."""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from safelight.checkpoints.vision_json import vision_to_json
from safelight.models.clip import ClipVisionConfig
from safelight.models.safety_checker import SafetyChecker, SafetyCheckerConfig
from safelight.server.safety import Concepts

TOWER = ClipVisionConfig(2, 64, 1, 96, "quick_gelu", 24, 32, 8)
NEVER = 2.0  # no cosine reaches it
ALWAYS = -2.0


def tiny_checker(concept: float = NEVER, special: float = NEVER, seed: int = 0) -> SafetyChecker:
    """Random weights; the first of each kind of concepts has this threshold, the others NEVER."""
    torch.manual_seed(seed)
    checker = SafetyChecker(SafetyCheckerConfig(TOWER))
    state = checker.state_dict()
    # strong weights, so that pictures differ in what they resemble
    for name, tensor in state.items():
        if tensor.dim() > 1:
            tensor.copy_(torch.randn(tensor.shape) * (0.2 if "vision" in name else 1.0))
    state["concept_embeds_weights"].fill_(NEVER)[0] = concept
    state["special_care_embeds_weights"].fill_(NEVER)[0] = special
    return checker.eval().requires_grad_(False)


def published_names(checker: SafetyChecker) -> dict[str, torch.Tensor]:
    """Its weights by the names that files have."""
    renamed = {"vision.vision_model.": "vision_model.vision_model.", "vision.visual": "visual"}
    state = checker.state_dict()
    for ours, theirs in renamed.items():
        state = {name.replace(ours, theirs): tensor for name, tensor in state.items()}
    return {name: tensor.contiguous() for name, tensor in state.items()}


def write_checker(folder: Path, checker: SafetyChecker, file: str = "model.safetensors") -> Path:
    """The folder of a safety checker, as Diffusers writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    vision = vision_to_json(checker.config.vision)
    config = {
        "architectures": ["StableDiffusionSafetyChecker"],
        "model_type": "clip",
        "projection_dim": checker.config.vision.projection,
        "vision_config": vision | {"projection_dim": 512},  # as published: the outer one counts
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(published_names(checker), folder / file, {"format": "pt"})
    return folder


def between(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> tuple[SafetyChecker, bool]:
    """A checker that flags one of two pictures, and whether it is the first."""
    judge = Concepts(tiny_checker(concept=0.0))
    cosines = [judge.scores(pixels).concepts[0] for pixels in (first, second)]
    assert abs(cosines[0] - cosines[1]) > 0.004, cosines
    return tiny_checker(concept=sum(cosines) / 2), cosines[0] > cosines[1]
