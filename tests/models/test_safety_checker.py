"""Scores and verdicts of a safety checker against those of Diffusers'."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from safelight.models.safety_checker import CARE, scored
from safelight.server.safety import Concepts
from safety_tiny import ALWAYS, NEVER, TOWER, tiny_checker, write_checker


def pictures(count: int) -> list[NDArray[np.uint8]]:
    """Pictures of several sizes, some wide and some high."""
    rng = np.random.default_rng(7)
    smalls = [rng.integers(0, 256, (5, 5, 3), dtype=np.uint8) for _ in range(count)]
    sizes = [(40 + 7 * n, 64) for n in range(count)]
    resized = [
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        for small, size in zip(smalls, sizes, strict=True)
    ]
    return [np.asarray(image) for image in resized]


@pytest.mark.parametrize("special", [NEVER, ALWAYS])
def test_scores_and_verdicts_are_those_of_diffusers(tmp_path: Path, special: float) -> None:
    from diffusers.pipelines.stable_diffusion import safety_checker as published
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    seen = pictures(8)
    checker = tiny_checker(special=special)
    judge = Concepts(checker)
    # thresholds a little below what one picture reaches, so that some are flagged
    checker.concept_embeds_weights.zero_()
    found = torch.tensor([judge.scores(pixels).concepts for pixels in seen])
    checker.concept_embeds_weights.copy_(found.max(0).values + 0.1)
    checker.concept_embeds_weights[:2] -= 0.1 + 0.0142
    oracle: Any = published
    folder = write_checker(tmp_path / "safety_checker", checker)
    theirs = oracle.StableDiffusionSafetyChecker.from_pretrained(folder).eval()
    side = TOWER.image_size
    prepare = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    flags = []
    for pixels in seen:
        views = prepare(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            (ours,) = checker(views)
            embeds = theirs.visual_projection(theirs.vision_model(views)[1])
            cared = oracle.cosine_distance(embeds, theirs.special_care_embeds)[0]
            cared = cared - theirs.special_care_embeds_weights
            concepts = oracle.cosine_distance(embeds, theirs.concept_embeds)[0]
            concepts = concepts - theirs.concept_embeds_weights
        care = CARE if special == ALWAYS else 0.0
        assert np.allclose(ours.special[0], cared[0], atol=6e-4)  # scores are rounded to 3 digits
        assert np.allclose(ours.concepts, concepts + care, atol=6e-4)
        _, (flagged,) = theirs(views, np.zeros((1, 4, 4, 3), np.float32))
        assert ours.flagged == flagged
        assert judge.scores(pixels).flagged == flagged
        flags.append(flagged)
    assert any(flags) and not all(flags)


def test_preparation_is_that_of_the_published_processor() -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from safelight.clip.preparation import images_of, prepared

    side = TOWER.image_size
    prepare = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    judge = Concepts(tiny_checker())
    for pixels in pictures(4):
        theirs = prepare(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
        ours = prepared(images_of(pixels), judge.preparation)
        # theirs are whole levels of 255 after resizing, over a deviation of about 0.27
        assert (ours - theirs).abs().max() < 1.01 / 255 / 0.26


def test_one_concept_of_special_care_makes_all_after_it_more_sensitive() -> None:
    scores = scored([-0.005, 0.0011, -0.005], [-0.0094, -0.0096, -0.011, 0.2])
    assert scores.special == (-0.005, 0.001, 0.005)
    assert scores.concepts == (0.001, 0.0, -0.001, 0.21)
    assert scores.found == (0, 3) and scores.flagged
    assert scored([-0.1], [0.0004]).found == ()  # it is rounded before it is compared
    assert scored([0.5], [-0.02]).flagged is False  # special care alone flags nothing


def test_a_tower_without_projection_is_no_safety_checker() -> None:
    from dataclasses import replace

    from safelight.models.safety_checker import SafetyChecker, SafetyCheckerConfig

    with pytest.raises(ValueError, match="projection"):
        SafetyChecker(SafetyCheckerConfig(replace(TOWER, projection=None)))
