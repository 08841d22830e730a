"""What the losses of a CLIP are, where they are known; and that ranks together equal one."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from models_tiny import random
from safelight.training.clip.contrastive import (
    MAX_LOG_SCALE,
    UNSAID,
    bounded_scale,
    caption_keys,
    contrastive_loss,
    recall,
    right_pairs,
    sigmoid_loss,
    softmax_loss,
)
from safelight.training.clip.distillation import cosine_loss, matching_loss


def embeddings(*seeds: int, count: int = 6, width: int = 8) -> list[torch.Tensor]:
    return [F.normalize(random(count, width, seed=seed), dim=-1) for seed in seeds]


def open_clip_losses():
    """open_clip's losses, from their file alone: the package imports torchvision."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None and package.submodule_search_locations, "install open_clip_torch"
    path = Path(package.submodule_search_locations[0]) / "loss.py"
    spec = importlib.util.spec_from_file_location("open_clip_loss_alone", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_right_answer_each_gives_open_clips_loss() -> None:
    pictures, texts = embeddings(1, 2)
    scale = torch.tensor(14.3)
    theirs = open_clip_losses().ClipLoss()(pictures, texts, scale)
    logits, right = scale * pictures @ texts.T, torch.eye(6, dtype=torch.bool)
    assert torch.allclose(contrastive_loss(logits, logits.T, right, right.T), theirs, atol=1e-6)


def test_one_right_answer_each_gives_open_clips_sigmoid_loss() -> None:
    pictures, texts = embeddings(3, 4)
    scale, bias = torch.tensor(10.0), torch.tensor(-10.0)
    theirs = open_clip_losses().SigLipLoss()(pictures, texts, scale, bias)
    ours = sigmoid_loss(scale * pictures @ texts.T + bias, torch.eye(6, dtype=torch.bool))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_softmax_loss_is_the_mean_log_likelihood_of_the_right_ones() -> None:
    logits = random(2, 3)
    right = torch.tensor([[1, 0, 1], [0, 1, 0]]).bool()
    log = logits.softmax(1).log()
    expected = -((log[0, 0] + log[0, 2]) / 2 + log[1, 1]) / 2
    assert torch.allclose(softmax_loss(logits, right), expected)
    weighted = -(0.25 * log[0, 0] + 0.75 * log[0, 2] + log[1, 1]) / 2
    weights = torch.tensor([[1.0, 0, 3], [0, 2, 0]])
    assert torch.allclose(softmax_loss(logits, weights), weighted)


def test_duplicates_are_not_pushed_apart() -> None:
    """Two equal pairs: with both right there is nothing to gain; as negatives there would be."""
    logits = torch.tensor([[20.0, 20.0, 0], [20.0, 20.0, 0], [0, 0, 20.0]], requires_grad=True)
    right = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    softmax_loss(logits, right).backward()
    assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-6
    alone = logits.detach().requires_grad_()
    softmax_loss(alone, torch.eye(3).bool()).backward()
    assert alone.grad is not None and float(alone.grad.abs().max()) > 0.1


def test_a_caption_is_right_for_every_picture_it_is_true_of() -> None:
    #                      concept, colour
    facts = torch.tensor([[7, 1], [7, 2], [9, 1]])
    said = torch.tensor([[7, 1], [7, UNSAID], [UNSAID, 1], [UNSAID, UNSAID]])
    expected = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1]]).bool()
    assert torch.equal(right_pairs(facts, said), expected)
    same_concept = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    assert torch.equal(right_pairs(facts[:, 0], facts[:, 0]), same_concept)


def test_keys_are_equal_for_equal_captions_alone() -> None:
    rng = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 6000, (4000, 12), generator=rng)
    # near ones: one token changed by one, two tokens exchanged
    tokens[1], tokens[2] = tokens[0], tokens[0]
    tokens[1, 5] += 1
    tokens[2, [3, 4]] = tokens[0, [4, 3]]
    tokens[3] = tokens[0]
    keys = caption_keys(tokens)
    assert keys[3] == keys[0]
    assert len(keys.unique()) == len(tokens.unique(dim=0)) == 3999


def test_the_scale_is_bounded_and_comes_back_from_the_bound() -> None:
    for value, direction, moves in ((5.0, -1, False), (5.0, 1, True), (1.0, -1, True)):
        log_scale = torch.tensor(value, requires_grad=True)
        scale = bounded_scale(log_scale)
        assert float(scale.detach()) <= 100.001
        (direction * scale).backward()  # 1: a smaller scale would be better
        assert log_scale.grad is not None and bool(log_scale.grad != 0) is moves
    assert math.isclose(float(bounded_scale(torch.tensor(2.0))), math.exp(2), rel_tol=1e-6)
    assert math.isclose(math.exp(MAX_LOG_SCALE), 100)


def test_recall_counts_any_right_answer_among_the_first() -> None:
    logits = torch.tensor([[3.0, 2, 1], [3.0, 2, 1], [3.0, 2, 1], [3.0, 2, 1]])
    right = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]]).bool()
    found = [float(recall(logits, right, count)) for count in (1, 2, 9)]
    assert found == [0.25, 0.75, 1.0]


def test_the_cosine_loss_is_0_for_parallel_and_2_for_opposite() -> None:
    rows = random(4, 8)
    assert float(cosine_loss(3 * rows, rows)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_loss(-rows, rows)) == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_matching_asks_for_cosines_not_for_axes(kind) -> None:
    """A rotated copy in another width has the same cosines, and so no loss; another has some."""
    teacher = random(7, 5)
    turn = torch.linalg.qr(random(9, 5, seed=2)).Q  # 5 axes in 9 dimensions
    turned = 2 * teacher @ turn.T
    loss = matching_loss((turned, turned), (teacher, teacher), kind=kind)
    assert float(loss) == pytest.approx(0, abs=1e-6)
    other = random(7, 9, seed=5)
    assert float(matching_loss((other, other), (teacher, teacher), kind=kind)) > 0.01


def test_matching_is_the_mean_squared_difference_of_different_pairs() -> None:
    student, teacher = embeddings(5, 6, count=4)
    off = ~torch.eye(4).bool()
    expected = ((student @ student.T - teacher @ teacher.T)[off] ** 2).mean()
    loss = matching_loss((student, student), (teacher, teacher), kind="mse")
    assert torch.allclose(loss, expected)


def test_matching_is_the_divergence_of_neighbourhoods() -> None:
    student, teacher = embeddings(5, 6, count=4)
    off = ~torch.eye(4).bool()
    p, q = ((e @ e.T)[off].reshape(4, 3).div(0.2).softmax(1) for e in (teacher, student))
    expected = (p * (p / q).log()).sum(1).mean()
    loss = matching_loss((student, student), (teacher, teacher), temperature=0.2)
    assert torch.allclose(loss, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_matching_of_parts_is_the_matching_of_the_whole(kind) -> None:
    student, teacher = embeddings(5, 6)
    whole = matching_loss((student, student), (teacher, teacher), kind=kind)
    parts = [
        matching_loss(
            (student[at : at + 3], student), (teacher[at : at + 3], teacher), first=at, kind=kind
        )
        for at in (0, 3)
    ]
    assert torch.allclose(sum(parts) / 2, whole, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_two_ranks_learn_what_one_learns_from_the_double_batch(tmp_path: Path, loss: str) -> None:
    runner = Path(__file__).parents[1] / "clip_rank.py"
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    alone = tmp_path / "alone.pt"
    command = [sys.executable, str(runner), loss]
    subprocess.run([*command, str(alone), "0", "1", "-"], check=True, env=environment)
    store = tmp_path / "store"
    both = [tmp_path / f"rank{rank}.pt" for rank in (0, 1)]
    running = [
        subprocess.Popen([*command, str(path), str(rank), "2", str(store)], env=environment)
        for rank, path in enumerate(both)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    expected = torch.load(alone)
    parts = [torch.load(path) for path in both]
    assert set(expected) >= {"total", "head.weight", "log_scale"}
    for name, value in expected.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        assert torch.allclose(mean, value, atol=2e-6, rtol=1e-4), name
    assert float(expected["text.text_projection.weight"].abs().max()) > 1e-4
