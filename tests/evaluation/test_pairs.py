"""Ordinary data: a model that gives real pictures has the distance of two real sets."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.evaluation.intervals import Estimate, Share
from safelight.evaluation.ordinary import evaluate_pairs
from safelight.evaluation.pairs import Pairs, Space, TextMatch, drawn
from safelight.evaluation.report import Cell, Report

SIDE, COUNT = 12, 40


def pictures(count: int, seed: int) -> Tensor:
    """Plain colours with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(count, 3, 1, 1, generator=generator) * 1.6 - 0.8
    return colours + 0.02 * torch.randn(count, 3, SIDE, SIDE, generator=generator)


def word(picture: Tensor) -> str:
    return " ".join(f"{value:.3f}" for value in picture.mean((1, 2)).tolist())


REAL = pictures(COUNT, 1)
PROMPTS = tuple(word(picture) for picture in REAL)
BY_PROMPT = dict(zip(PROMPTS, REAL, strict=True))


def features(given: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(given, 2).flatten(1)


def vectors(texts: Sequence[str]) -> Tensor:
    return torch.tensor([[float(v) for v in text.split()] + [0.2] for text in texts])


MATCH = TextMatch("colours", lambda p: F.pad(p.mean((2, 3)), (0, 1), value=0.2), vectors)
PAIRS = Pairs(
    PROMPTS,
    tuple(range(COUNT)),
    REAL,
    pictures(COUNT, 2),
    Space("pool", features),
    MATCH,
    dimensions=4,
    batch=7,
)


def copied(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    return torch.stack([BY_PROMPT[prompt] for prompt in prompts])


def white(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    return torch.ones(len(prompts), 3, SIDE, SIDE)


def row(report: Report, table: str, name: str) -> dict[str, Cell]:
    found = next(t for t in report.tables if t.title.startswith(table))
    return dict(zip(found.columns, found.rows[name], strict=True))


def test_a_perfect_copy_measures_as_the_real_pictures_do() -> None:
    report = evaluate_pairs(PAIRS, copied, model="copy", unguided=white, again=lambda p: p)
    for name in ("pool KID", "pool Fréchet", "recall (k=5)", "CLIP score (colours)"):
        cells = row(report, "Distances", name)
        assert cells["model"] == cells["real pictures"] == cells["codec ceiling"], name
        assert cells["no guidance"] != cells["model"], name
    right = row(report, "Distances", f"R-precision of {COUNT} (colours)")
    shuffled = right["shuffled captions"]
    assert right["model"] == Share(COUNT, COUNT)
    assert isinstance(shuffled, Share) and shuffled.value < 0.2
    kid = row(report, "Distances", "pool KID")
    assert isinstance(kid["no guidance"], Estimate) and isinstance(kid["model"], Estimate)
    assert kid["no guidance"].value > 10 * abs(kid["model"].value)
    assert row(report, "Reconstruction", "PSNR, dB")["autoencoder"] == Estimate(120, 120, 120, 40)
    assert set(report.pictures) == {"pictures.png", "real.png"}


def test_without_a_text_net_or_enough_pictures_only_the_rest_is_told() -> None:
    bare = replace(PAIRS, match=None, dimensions=64, space=Space("raw", lambda p: p.flatten(1)))
    report = evaluate_pairs(bare, copied, model="copy")
    (table,) = report.tables
    assert table.rows["raw Fréchet"] == [None] * 3, "40 pictures have no covariance of 64"
    assert not any("R-precision" in name for name in table.rows)
    assert report.facts["text match"] == "none"


def test_equal_captions_are_no_distractors_of_each_other() -> None:
    same = replace(PAIRS, prompts=(PROMPTS[0],) * 3 + PROMPTS[3:])
    report = evaluate_pairs(same, lambda p, s: REAL[list(s)], model="m")
    assert row(report, "Distances", f"R-precision of {COUNT - 2} (colours)")["real pictures"]
    alone = replace(PAIRS, prompts=(PROMPTS[0],) * COUNT)
    (table,) = evaluate_pairs(alone, copied, model="m").tables
    assert not any("R-precision" in name for name in table.rows)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(RequestError, match="40 captions came with 39 seeds"):
        replace(PAIRS, seeds=PAIRS.seeds[1:])
    with pytest.raises(RequestError, match="0 captions came with 0 seeds and 0 pictures"):
        replace(PAIRS, prompts=(), seeds=(), real=REAL[:0])
    with pytest.raises(RequestError, match="5 reference pictures are too few"):
        replace(PAIRS, reference=PAIRS.reference[:5])
    with pytest.raises(RequestError, match=r"were to be drawn; got \(7, 3, 32, 16\)"):
        drawn(lambda p, s: torch.zeros(len(p), 3, 32, 16), PAIRS)


def test_pictures_are_drawn_alike_in_batches_of_any_size() -> None:
    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return torch.stack([torch.full((3, 8, 8), s / 100) for s in seeds])

    assert torch.equal(drawn(draw, PAIRS), drawn(draw, replace(PAIRS, batch=3)))


def test_few_pictures_have_a_kernel_distance_only() -> None:
    few = replace(PAIRS, prompts=PROMPTS[:4], seeds=PAIRS.seeds[:4], real=REAL[:4])
    table = evaluate_pairs(few, copied, model="m").tables[0]
    assert table.rows["recall (k=5)"] == table.rows["pool Fréchet"] == [None] * 3
    assert isinstance(table.rows["pool KID"][0], Estimate)
