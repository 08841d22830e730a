"""Retrieval and reconstruction: chance, certainty, and what distractors may be."""

import math

import pytest
import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.evaluation.reconstruction import reconstruction
from safelight.evaluation.retrieval import clip_score, concept_precision, r_precision


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_score_of_cosines_leaves_out_negative_ones() -> None:
    texts = torch.eye(4)
    pictures = torch.stack([texts[0], -texts[1], texts[2] + texts[3], 3 * texts[3]])
    score = clip_score(pictures, texts)
    assert score.value == pytest.approx(2.5 * (1 + 0 + math.sqrt(0.5) + 1) / 4)
    assert score.low <= score.value <= score.high and score.count == 4


def test_pictures_at_their_captions_are_always_found() -> None:
    texts = normals(200, 16)
    concepts = [frozenset({str(i)}) for i in range(200)]
    own = list(range(0, 200, 2))
    share = r_precision(texts[own] + 0.01 * normals(100, 16, seed=1), texts, own, concepts)
    assert share.right == share.of == 100


def test_pictures_of_nothing_are_found_once_in_a_hundred() -> None:
    texts = normals(300, 16)
    concepts = [frozenset({str(i)}) for i in range(300)]
    own = [i % 300 for i in range(3000)]
    share = r_precision(normals(3000, 16, seed=1), texts, own, concepts)
    assert 15 <= share.right <= 50


def test_captions_of_a_shared_concept_are_no_distractors() -> None:
    """Fifty captions of dogs say the same; the picture lies nearest to another of them."""
    texts = torch.cat([torch.eye(8)[:1].repeat(50, 1), normals(99, 8).abs() * -1])
    texts[0] = torch.tensor([0.9, 0.1, 0, 0, 0, 0, 0, 0])
    concepts = [frozenset({"dog"})] * 50 + [frozenset({f"thing {i}", "hat"}) for i in range(99)]
    assert r_precision(torch.eye(8)[:1], texts, [0], concepts).right == 1
    concepts[0] = frozenset({"wolf"})  # now the others are of another concept
    assert r_precision(torch.eye(8)[:1], texts, [0], concepts).right == 0


def test_too_few_captions_of_other_concepts_are_refused() -> None:
    texts = normals(100, 4)
    concepts = [frozenset({"dog"})] * 2 + [frozenset({str(i)}) for i in range(98)]
    with pytest.raises(RequestError, match="only 98 captions"):
        r_precision(texts[:1], texts, [0], concepts)
    assert r_precision(texts[:1], texts, [0], concepts, candidates=99).of == 1


def test_a_tie_is_not_a_find() -> None:
    assert concept_precision(torch.zeros(3, 5), [0, 1, 2], candidates=5).right == 0


def test_concepts_are_found_by_their_logits() -> None:
    logits = normals(2000, 50)
    own = [i % 50 for i in range(2000)]
    chance = concept_precision(logits, own, candidates=10)
    assert chance.value == pytest.approx(0.1, abs=0.03)
    logits[torch.arange(2000), torch.tensor(own)] += 20
    assert concept_precision(logits, own, candidates=10).value == 1


def test_the_reconstruction_of_noise_added_has_its_psnr() -> None:
    pictures = normals(6, 3, 32, 32).clamp(-0.5, 0.5)

    def noisy(x: Tensor) -> Tensor:
        return x + 0.1 * normals(*x.shape, seed=1).sign()

    found = reconstruction(pictures, noisy, batch=4)
    assert found.psnr.value == pytest.approx(20 * math.log10(2 / 0.1), abs=1e-3)
    assert found.psnr.count == 6 and found.frechet is None
    exact = reconstruction(pictures, lambda x: x)
    assert exact.psnr.value == 120 and exact.ssim.value == pytest.approx(1)
    assert found.ssim.value < 0.999


def test_a_reconstruction_is_clamped_and_compared_in_features() -> None:
    pictures = normals(40, 3, 16, 16).sign()
    found = reconstruction(
        pictures,
        lambda x: 3 * x,
        features=lambda x: x.mean(dim=(2, 3)),
        dimensions=3,
    )
    assert found.psnr.value == 120
    assert found.frechet is not None and found.frechet.value < 1e-6
    with pytest.raises(RequestError, match="no pictures"):
        reconstruction(pictures[:0], lambda x: x)
