"""Safety checkers as judges of what a server draws: CompVis' concepts, or a classifier of LAION."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from safelight.checkpoints.safety_checker_file import load_safety_checker
from safelight.checkpoints.safety_head_file import (
    is_safety_head,
    load_safety_head,
    load_safety_tower,
)
from safelight.clip.preparation import Preparation, images_of, prepared
from safelight.engines.placement import resolve_device
from safelight.errors import RequestError
from safelight.models.clip import ClipVision
from safelight.models.safety_checker import SafetyChecker, SafetyScores
from safelight.models.safety_head import SafetyHead
from safelight.server.judge import Verdict
from safelight.server.settings import ServerSettings

LIMIT = 0.5
"""The score from which on a classifier of LAION calls a picture unsafe: the middle of its range."""


class Checker(Protocol):
    """Says what is wrong with a picture."""

    def reason(self, pixels: NDArray[np.uint8]) -> str | None:
        """Why a picture (H, W, 3) is flagged; None if it is not."""
        ...


class Concepts:
    """CompVis' safety checker."""

    def __init__(self, checker: SafetyChecker) -> None:
        self.checker = checker
        self.preparation = Preparation(checker.config.vision.image_size)

    def scores(self, pixels: NDArray[np.uint8]) -> SafetyScores:
        """How near a picture (H, W, 3) is to each concept."""
        device = self.checker.concept_embeds.device
        with torch.inference_mode():
            return self.checker(prepared(images_of(pixels, device), self.preparation))[0]

    def reason(self, pixels: NDArray[np.uint8]) -> str | None:
        """By how many concepts a picture is flagged, and how clearly."""
        scores = self.scores(pixels)
        if not scores.flagged:
            return None
        count = f"{len(scores.found)} of {len(scores.concepts)} concepts"
        return f"it resembles {count} beyond their thresholds, by up to {max(scores.concepts):.3f}"


class Classifier:
    """A classifier of LAION on its CLIP."""

    def __init__(self, head: SafetyHead, tower: ClipVision) -> None:
        self.head, self.tower = head, tower
        # as its authors show: both sides are squeezed to the tower's
        self.preparation = Preparation(tower.config.image_size, fit="squash")

    def score(self, pixels: NDArray[np.uint8]) -> float:
        """How unsafe a picture (H, W, 3) is, about 0 to 1."""
        device = self.tower.vision_model.embeddings.class_embedding.device
        with torch.inference_mode():
            embeds = self.tower(prepared(images_of(pixels, device), self.preparation)).embeds
            assert embeds is not None
            return float(self.head(F.normalize(embeds, dim=-1))[0])

    def reason(self, pixels: NDArray[np.uint8]) -> str | None:
        """The score of a picture that is flagged."""
        score = self.score(pixels)
        return None if score < LIMIT else f"its score is {score:.3f}, and the limit {LIMIT}"


class SafetyJudge:
    """Withholds or labels what a checker flags. May be asked on several threads at once."""

    def __init__(self, checker: Checker, *, withholds: bool) -> None:
        self.checker, self.withholds = checker, withholds

    def __call__(self, pixels: NDArray[np.uint8]) -> Verdict:
        """The verdict on a picture."""
        reason = self.checker.reason(pixels)
        if reason is None:
            return Verdict(shown=True)
        if self.withholds:
            told = f"the safety checker withheld this picture: {reason}"
            return Verdict(shown=False, words=f"{told}; draw with another prompt or seed.")
        return Verdict(shown=True, words=f"the safety checker flags this picture: {reason}.")


def safety_judge(settings: ServerSettings) -> SafetyJudge | None:
    """The judge that the settings ask for. Raises FileError, CheckpointError or RequestError."""
    path, clip = settings.safety_checker, settings.safety_clip
    if path is None:
        return None
    device = resolve_device(settings.device)
    checker: Checker
    if clip is not None:
        tower = load_safety_tower(clip, device=device)
        checker = Classifier(load_safety_head(path, tower, device=device), tower)
    elif is_safety_head(path):
        raise RequestError("a safety classifier of LAION needs its CLIP: give --safety-clip.")
    else:
        checker = Concepts(load_safety_checker(path, device=device))
    return SafetyJudge(checker, withholds=settings.safety_action == "withhold")
