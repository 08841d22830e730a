"""LAION's safety classifiers: their files, what they compute, and what is none."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.checkpoints.safety_head_file import (
    is_safety_head,
    load_safety_head,
    load_safety_tower,
)
from safelight.checkpoints.vision_folder import save_clip_vision
from safelight.errors import CheckpointError, RequestError
from safelight.models.clip import ClipVision
from safelight.models.safety_head import SafetyHeadConfig
from safelight.server.safety import Classifier, safety_judge
from safety_tiny import TOWER
from server_fake import settings

WIDTH = 24  # of the tiny tower's space
L14 = (WIDTH, 6, 10, 8, 1)
B32 = (WIDTH, 5, 5, 1)
H14 = (WIDTH, 9, 12, 9, 7, 5, 4, 1)
Names = dict[str, Tensor]
Head = Callable[[Tensor], Tensor]


def normed(widths: tuple[int, ...]) -> tuple[Names, Head]:
    """A random head for one of OpenAI's towers, and what its authors' code computes with it."""
    torch.manual_seed(len(widths))
    mean, variance = torch.randn(WIDTH) * 0.1, torch.rand(WIDTH) + 0.01
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    names = {"norm.mean": mean, "norm.variance": variance}
    for number, layer in enumerate(layers, start=1):
        names[f"linear_{number}.weight"] = layer.weight.data
        names[f"linear_{number}.bias"] = layer.bias.data
    rest = [step for layer in layers[:-1] for step in (layer, nn.ReLU())]
    whole = nn.Sequential(*rest, layers[-1], nn.Sigmoid()).requires_grad_(False)
    return names, lambda x: whole((x - mean) / variance.sqrt())[:, 0]


def plain(widths: tuple[int, ...]) -> tuple[Names, Head]:
    """A random head for ViT-H: activations and dropouts between all layers but the last two."""
    torch.manual_seed(9)
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    steps: list[nn.Module] = []
    for layer in layers[:-2]:
        steps += [layer, nn.ReLU(), nn.Dropout(0.2)]
    whole = nn.Sequential(*steps, *layers[-2:]).eval().requires_grad_(False)
    names = {f"layers.{name}": tensor for name, tensor in whole.state_dict().items()}
    return names, lambda x: whole(x)[:, 0]


@pytest.fixture(scope="module")
def tower() -> ClipVision:
    torch.manual_seed(0)
    return ClipVision(TOWER).eval().requires_grad_(False)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("made", [normed(L14), normed(B32), plain(H14)], ids=["L14", "B32", "H14"])
def test_a_head_is_read_and_computes_what_its_authors_compute(
    tmp_path: Path, tower: ClipVision, made: tuple[Names, Head], suffix: str
) -> None:
    names, theirs = made
    path = tmp_path / f"head{suffix}"
    if suffix == ".pth":
        torch.save(names, path)
    else:
        save_file(names, path)
    assert is_safety_head(path)
    head = load_safety_head(path, tower)
    embeds = F.normalize(torch.randn(16, WIDTH), dim=-1)
    assert torch.allclose(head(embeds), theirs(embeds), atol=1e-5)
    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    score = Classifier(head, tower).score(pixels)
    if head.config.normed:
        assert 0 < score < 1


def test_published_heads_have_the_published_names() -> None:
    names = ("layers.0", "layers.3", "layers.6", "layers.9", "layers.12", "layers.15", "layers.16")
    assert SafetyHeadConfig((1024, 1024, 2048, 1024, 256, 128, 16, 1), normed=False).names == names
    assert SafetyHeadConfig().names == ("linear_1", "linear_2", "linear_3", "linear_4")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"linear_2.bias": None}, "linear_2.bias"),
        ({"linear_3.weight": torch.ones(8, 11)}, "linear_3.weight"),
        ({"stranger": torch.ones(1)}, "stranger"),
        ({"norm.mean": None}, "norm.mean"),
        ({"linear_1.weight": None}, "holds no safety classifier"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, tower: ClipVision, change: dict[str, Tensor | None], words: str
) -> None:
    names = normed(L14)[0] | change
    save_file({n: t for n, t in names.items() if t is not None}, tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_safety_head(tmp_path / "head.safetensors", tower)


def test_a_head_for_another_tower_is_refused(tmp_path: Path, tower: ClipVision) -> None:
    names = normed(L14)[0]
    names |= {"norm.mean": torch.ones(768), "norm.variance": torch.ones(768)}
    names["linear_1.weight"] = torch.ones(6, 768)
    save_file(names, tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match=r"width 768 \(OpenAI ViT-L/14\).* have 24"):
        load_safety_head(tmp_path / "head.safetensors", tower)


@pytest.mark.parametrize(("bias", "shown"), [(50.0, False), (-50.0, True)])
def test_a_server_judges_by_it(tmp_path: Path, tower: ClipVision, bias: float, shown: bool) -> None:
    names = normed(L14)[0] | {"linear_4.bias": torch.tensor([bias])}
    head, clip = tmp_path / "head.safetensors", tmp_path / "clip"
    save_file(names, head)
    save_clip_vision(tower, clip)
    assert load_safety_tower(clip).config == tower.config
    judge = safety_judge(settings(tmp_path / "out", safety_checker=head, safety_clip=clip))
    assert judge is not None
    verdict = judge(np.zeros((32, 32, 3), dtype=np.uint8))
    assert verdict.shown is shown
    assert shown or "its score is 1.000, and the limit 0.5" in verdict.words
    with pytest.raises(RequestError, match="give --safety-clip"):
        safety_judge(settings(tmp_path / "out", safety_checker=head))
    with pytest.raises(RequestError, match="belongs to a --safety-checker"):
        settings(tmp_path / "out", safety_clip=clip)
