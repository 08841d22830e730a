"""Memorisation: a model that copies is found out, one that draws anew is not."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from evaluation_scenes import disc, plain
from safelight.errors import RequestError
from safelight.evaluation.memorisation import (
    calibrated,
    extraction,
    foregrounds,
    memorisation,
    nearest,
    nearest_aligned,
)


def normals(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double()


def test_the_nearest_is_that_of_a_plain_search() -> None:
    x, y = normals(700, 5, 1), normals(40, 5, 2)
    found = nearest(x, y)
    apart = (x[:, None] - y).square().sum(-1).sqrt()
    torch.testing.assert_close(found.distance, apart.min(1).values)
    assert torch.equal(found.index, apart.argmin(1))


def test_a_set_is_not_nearest_to_itself() -> None:
    x = normals(600, 3, 1)
    assert nearest(x, x).distance.max() == 0
    apart = nearest(x, x, apart_from_self=True)
    assert apart.distance.min() > 0 and not (apart.index == torch.arange(600)).any()


def test_one_held_out_picture_of_a_hundred_is_below_the_threshold() -> None:
    distances = torch.rand(5000, generator=torch.Generator().manual_seed(0))
    threshold = calibrated(distances)[""]
    assert (distances < threshold).float().mean() == pytest.approx(0.01, abs=1e-3)
    groups = ["known"] * 2500 + ["new"] * 2500
    both = calibrated(torch.cat([distances[:2500], distances[2500:] + 1]), groups)
    assert both["known"] < 0.1 < 1 < both["new"]
    with pytest.raises(RequestError, match=r"3 held-out pictures are too few .* group new"):
        calibrated(distances[:30], ["known"] * 27 + ["new"] * 3)


def judged(samples: Tensor, training: Tensor, held: Tensor) -> tuple[float, float, float]:
    result = memorisation(
        "space",
        nearest(samples, training),
        calibrated(nearest(held, training).distance),
        (nearest(samples, training[: len(held)]), nearest(samples, held)),
        real=(nearest(held, training[: len(held)]), nearest(held, held, apart_from_self=True)),
    )
    assert result.real_ratio is not None
    return result.below.value, result.ratio.value, result.real_ratio.value


def test_a_model_that_copies_is_told_from_one_that_draws_anew() -> None:
    training, held = normals(500, 4, 1), normals(500, 4, 2)
    copies = training[::5] + 0.001 * normals(100, 4, 3)
    below, ratio, real = judged(copies, training, held)
    assert below == 1 and ratio < 0.05 and real == pytest.approx(1, abs=0.15)
    below, ratio, _ = judged(normals(500, 4, 4), training, held)
    assert below < 0.04 and ratio == pytest.approx(1, abs=0.1)


def test_the_worst_pairs_come_first_and_groups_have_their_own_threshold() -> None:
    training, held = normals(200, 3, 1), normals(200, 3, 2)
    samples = torch.cat([normals(20, 3, 3), training[7:8]])
    to_training = nearest(samples, training)
    pair = (to_training, nearest(samples, held))
    found = memorisation("s", to_training, {"": 0.2}, pair, worst=3)
    assert found.worst[0] == (20, 7, 0.0) and len(found.worst) == 3
    groups = ["a"] * 20 + ["b"]
    strict = memorisation("s", to_training, {"a": 100.0, "b": 0.0}, pair, groups=groups)
    assert strict.below.value == pytest.approx(20 / 21)
    with pytest.raises(RequestError, match="group b was not calibrated; known are a"):
        memorisation("s", to_training, {"a": 1.0}, pair, groups=groups)


def test_extraction_counts_samples_and_captions() -> None:
    distances = torch.tensor([[0.1, 0.9, 0.9], [0.9, 0.9, 0.9], [0.1, 0.1, 0.1]])
    found = extraction(distances, 0.5)
    assert (found.samples.right, found.samples.of) == (4, 9)
    assert (found.captions.right, found.captions.of) == (2, 3)


def objects(count: int, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    pictures = []
    for x, y, r, a, b in torch.rand(count, 5, generator=generator).tolist():
        picture = disc(plain((250, 250, 250), size), 0.5, 0.5, 0.25 + 0.1 * r, (200, 30, 40))
        picture = disc(picture, 0.35 + 0.3 * x, 0.35 + 0.3 * y, 0.08, (30, int(200 * a), 200))
        pictures.append(disc(picture, 0.5, 0.35 + 0.3 * b, 0.06, (250, 220, 50)))
    return torch.stack(pictures)


def test_a_copy_is_found_mirrored_moved_and_on_another_background() -> None:
    training = objects(20)
    sample = training[3:4].flip(3).roll((2, -1), (2, 3))
    blue = torch.tensor([-0.9, -0.2, 0.8])[:, None, None]
    sample = torch.where((sample > 0.95).all(dim=1, keepdim=True), blue, sample)
    one, all_ = (foregrounds(x, size=32) for x in (sample, training))
    found = nearest_aligned(one, all_, shortlist=20)
    assert found.index.item() == 3 and found.distance.item() < 1e-3
    unmoved = nearest_aligned(one, all_, shift=0, flip=False, shortlist=20)
    assert unmoved.distance.item() > 0.1


def test_a_short_list_finds_what_the_full_search_finds() -> None:
    training = foregrounds(objects(40), size=32)
    samples = training[:10].roll(1, 3) + 0.05 * normals(10, 3 * 32 * 32, 1).view(10, 3, 32, 32)
    short = nearest_aligned(samples.float(), training, shortlist=8)
    full = nearest_aligned(samples.float(), training, shortlist=40)
    assert torch.equal(short.index, full.index) and torch.equal(short.index, torch.arange(10))
    torch.testing.assert_close(short.distance, full.distance)


def test_aligned_pictures_of_one_set_are_not_nearest_to_themselves() -> None:
    training = foregrounds(objects(12), size=32)
    found = nearest_aligned(training, training, shortlist=12, apart_from_self=True)
    assert found.distance.min() > 0 and not (found.index == torch.arange(12)).any()


def test_the_background_of_a_foreground_is_grey() -> None:
    (picture,) = foregrounds(objects(1), size=32)
    assert (picture[:, 0, 0] == 0).all() and picture[:, 16, 16].abs().max() > 0.3


def test_a_result_says_how_it_was_calibrated() -> None:
    x = normals(30, 2, 1)
    found = memorisation("s", nearest(x, x), {"": 0.1}, (nearest(x, x), nearest(x, x)))
    assert replace(found, worst=()).thresholds == {"": 0.1} and found.real_ratio is None
