"""The evaluator network: its size, its resizing, and its folder on disk."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from safelight.checkpoints.evaluator_folder import CONFIG, WEIGHTS, load_evaluator, write_evaluator
from safelight.errors import CheckpointError, FileError
from safelight.models.evaluator import Evaluator, EvaluatorConfig, Labels, at_size

TINY = EvaluatorConfig(5, 3, widths=(8, 16), blocks=(2, 1), image_size=16, groups=4)
LABELS = Labels(("1F34E", "1F415", "1F355", "1F680", "2764"), ("noto", "twemoji", "fluent-3d"))


@pytest.fixture
def evaluator() -> Evaluator:
    torch.manual_seed(0)
    return TINY.build().eval()


def pictures(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_shipped_shape_has_about_a_million_weights() -> None:
    with torch.device("meta"):
        net = EvaluatorConfig(1_400, 8).build()
    assert 1.0e6 < sum(p.numel() for p in net.parameters()) < 1.2e6


def test_a_picture_is_judged_alike_alone_and_among_others(evaluator: Evaluator) -> None:
    many = pictures(4, 32)
    together = evaluator(many)
    for i in range(4):
        alone = evaluator(many[i : i + 1])
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_[i], rtol=1e-4, atol=1e-5)


def test_every_weight_has_a_say(evaluator: Evaluator) -> None:
    said = evaluator(pictures(2, 16))
    (said.concepts.pow(2).sum() + said.styles.pow(2).sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in evaluator.parameters())


def test_features_are_what_the_heads_see(evaluator: Evaluator) -> None:
    said = evaluator(pictures(3, 16))
    torch.testing.assert_close(evaluator.concept_head(said.features), said.concepts)
    torch.testing.assert_close(evaluator.features(pictures(3, 16)), said.features)
    assert said.features.shape == (3, 16) and said.features.dtype == torch.float32


@torch.no_grad()
def test_a_half_precision_net_gives_float32(evaluator: Evaluator) -> None:
    exact, rough = evaluator(pictures(2, 16)), evaluator.to(torch.bfloat16)(pictures(2, 16))
    for one, other in zip(exact, rough, strict=True):
        assert other.dtype == torch.float32
        assert (one - other).abs().max() < 0.1 * max(1.0, float(one.abs().max()))


def test_resizing_keeps_what_was_enlarged_in_blocks() -> None:
    small = pictures(2, 8)
    torch.testing.assert_close(
        at_size(small.repeat_interleave(3, 2).repeat_interleave(3, 3), 8), small
    )


def test_resizing_to_an_odd_share_is_pillows_antialiased_one() -> None:
    picture = pictures(1, 20)
    bands = [
        Image.fromarray(band.numpy()).resize((8, 8), Image.Resampling.BILINEAR)
        for band in picture[0]
    ]
    expected = torch.from_numpy(np.stack([np.asarray(band) for band in bands]))
    torch.testing.assert_close(at_size(picture, 8)[0], expected, rtol=0, atol=1e-5)


def test_resizing_does_not_alias() -> None:
    stripes = torch.ones(1, 3, 24, 24)
    stripes[..., ::2] = -1
    assert at_size(stripes, 12).abs().max() < 1e-6
    assert at_size(stripes, 10).abs().max() < 0.35  # nearest neighbours would give 1
    assert F.interpolate(stripes, size=(10, 10), mode="nearest").abs().min() == 1


def test_what_was_written_is_loaded(evaluator: Evaluator, tmp_path: Path) -> None:
    write_evaluator(tmp_path / "evaluator", evaluator, LABELS)
    loaded = load_evaluator(tmp_path / "evaluator")
    assert loaded.labels == LABELS and loaded.evaluator.config == TINY
    assert not loaded.evaluator.training and len(loaded.sha256) == 64
    for one, other in zip(
        evaluator(pictures(2, 16)), loaded.evaluator(pictures(2, 16)), strict=True
    ):
        assert torch.equal(one, other)


def test_half_precision_on_disk_takes_half_the_room(evaluator: Evaluator, tmp_path: Path) -> None:
    write_evaluator(tmp_path / "whole", evaluator, LABELS)
    write_evaluator(tmp_path / "half", evaluator, LABELS, dtype=torch.float16)
    whole, half = ((tmp_path / name / WEIGHTS).stat().st_size for name in ("whole", "half"))
    assert half < 0.6 * whole
    assert load_evaluator(tmp_path / "half").evaluator.stem.weight.dtype == torch.float32


def test_labels_that_are_too_few_are_refused(evaluator: Evaluator, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="5 concepts and 3 styles, but 4 and 3 labels"):
        write_evaluator(tmp_path / "e", evaluator, replace(LABELS, concepts=LABELS.concepts[:4]))
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet"}, "not an evaluator's config"),
        ({"widths": [8, 15]}, "multiples of groups"),
        ({"widths": [8, 1 << 40]}, "expected at most 16777216"),
        ({"widths": [8, 1 << 20]}, "multiples of groups"),
        ({"blocks": [1]}, "one number"),
        ({"image_size": 18}, "multiple of 4"),
        ({"image_size": 1 << 20}, "at most 1024"),
        ({"dropout": 1.5}, "dropout"),
        ({"concepts": [1, 2]}, "list of texts"),
        ({"concepts": ["1F34E"]}, "misshapen: concept_head.bias, concept_head.weight"),
        ({"blocks": [1, 1]}, "surplus: levels.0.1"),
    ],
)
def test_a_wrong_config_is_refused_by_name(
    evaluator: Evaluator, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    write_evaluator(tmp_path / "e", evaluator, LABELS)
    config = tmp_path / "e" / CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_evaluator(tmp_path / "e")


def test_a_nan_in_the_weights_is_refused(evaluator: Evaluator, tmp_path: Path) -> None:
    with torch.no_grad():
        evaluator.style_head.bias[1] = torch.nan
    write_evaluator(tmp_path / "e", evaluator, LABELS)
    with pytest.raises(FileError, match=r"style_head\.bias"):
        load_evaluator(tmp_path / "e")
