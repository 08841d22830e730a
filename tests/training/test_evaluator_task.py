"""Teaching the evaluator: what augmentation leaves alone, and that it learns."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.models.evaluator import EvaluatorConfig
from safelight.training.draw import Draw
from safelight.training.evaluator_task import (
    Augmentation,
    EvaluatorTask,
    LabelledBatch,
    augmented,
)

NONE = Augmentation(scale=(1.0, 1.0), shift=0.0, blur=0.0, noise=0.0, compression=0.0)


def scenes(count: int, size: int = 16) -> Tensor:
    """A bright disc in the middle of a dark plain."""
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    disc = (at[:, None] ** 2 + at**2 < 0.3).float() * 1.6 - 0.8
    return disc.expand(count, 3, size, size).contiguous()


def draw(step: int = 0, total: int = 6) -> Draw:
    return Draw(seed=1, step=step, total=total)


def test_no_augmentation_is_the_picture_itself() -> None:
    x = torch.rand(6, 3, 20, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(augmented(x, NONE, draw()), x, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "how",
    [
        Augmentation(scale=(0.6, 1.1), blur=0, noise=0, compression=0),
        Augmentation(scale=(1, 1), shift=0, blur=2, noise=0, compression=0),
        Augmentation(scale=(1, 1), shift=0, blur=0, noise=0.1, compression=0),
        Augmentation(scale=(1, 1), shift=0, blur=0, noise=0, compression=0.5),
    ],
    ids=["placed", "blurred", "noisy", "compressed"],
)
def test_each_augmentation_differs_from_row_to_row_and_keeps_the_plain_corner(
    how: Augmentation,
) -> None:
    x = scenes(6)
    y = augmented(x, how, draw())
    assert y.shape == x.shape and y.abs().max() <= 1
    assert (y[0] - y[1]).abs().max() > 0.01
    assert (y - x).abs().amax(dim=(1, 2, 3)).max() > 0.02
    assert (y[..., 0, 0] + 0.8).abs().max() < 0.5


def test_a_row_is_augmented_alike_in_every_division_of_the_batch() -> None:
    x = scenes(6)
    whole = augmented(x, Augmentation(), draw())
    parts = [
        augmented(x[s : s + 2], Augmentation(), Draw(1, 0, total=6, start=s, count=2))
        for s in (0, 2, 4)
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_scaling_makes_the_area_of_an_object_as_much_smaller() -> None:
    x = scenes(64, 32)
    small = Augmentation(scale=(0.6, 0.6), shift=0.0, blur=0, noise=0, compression=0)
    before = (x[:, 0] + 0.8).sum(dim=(1, 2))
    after = (augmented(x, small, draw(total=64))[:, 0] + 0.8).sum(dim=(1, 2))
    torch.testing.assert_close(after / before, torch.full((64,), 0.36), rtol=0.08, atol=0)


def test_blur_and_compression_keep_the_mean() -> None:
    x = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    inside = scenes(6)
    soft = augmented(inside, Augmentation((1, 1), 0, 2, 0, 0), draw())
    torch.testing.assert_close(
        soft.mean(dim=(1, 2, 3)), inside.mean(dim=(1, 2, 3)), atol=0.02, rtol=0
    )
    rounded = augmented(x, Augmentation((1, 1), 0, 0, 0, 0.2), draw())
    # the mean of a block is rounded to a step of at most 0.2 / 8
    assert (F.avg_pool2d(rounded - x, 8)).abs().max() <= 0.2 / 8 / 2 + 1e-5


def test_a_full_blur_is_the_binomial_filter() -> None:
    point = torch.zeros(1, 3, 16, 16)
    point[..., 8, 8] = 1.0
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    expected = torch.zeros(16, 16)
    expected[6:11, 6:11] = row[:, None] * row
    share = draw(total=1).uniform("evaluator blur").item()
    how = Augmentation((1, 1), 0, 1 / share, 0, 0)  # what is drawn makes exactly one pass
    torch.testing.assert_close(
        augmented(point, how, draw(total=1))[0, 0], expected, atol=2e-5, rtol=0
    )


def test_the_loss_of_an_untrained_net_is_that_of_a_guess() -> None:
    task = EvaluatorTask(EvaluatorConfig(5, 3, (8,), (1,), image_size=16).build())
    with torch.no_grad():
        for head in (task.evaluator.concept_head, task.evaluator.style_head):
            head.weight.zero_()
            head.bias.zero_()
    batch = LabelledBatch(scenes(6), torch.arange(6) % 5, torch.arange(6) % 3)
    loss = task.loss("evaluator", batch, draw())
    expected = math.log(5) + task.style_weight * math.log(3)
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    assert loss.figures["concept_top5"].item() == 1.0  # of five concepts
    assert set(loss.figures) == {
        "concept_loss",
        "style_loss",
        "concept_top1",
        "concept_top5",
        "style_top1",
    }


def test_the_loss_of_a_batch_is_the_mean_of_its_parts() -> None:
    torch.manual_seed(0)
    task = EvaluatorTask(EvaluatorConfig(5, 3, (8,), (1,), image_size=16, dropout=0).build())
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    concept, style = torch.arange(6) % 5, torch.arange(6) % 3
    whole = task.loss("evaluator", LabelledBatch(x, concept, style), draw())
    parts = [
        task.loss(
            "evaluator",
            LabelledBatch(x[s : s + 3], concept[s : s + 3], style[s : s + 3]),
            Draw(1, 0, total=6, start=s, count=3),
        )
        for s in (0, 3)
    ]
    torch.testing.assert_close(whole.total, (parts[0].total + parts[1].total) / 2)
    for name, figure in whole.figures.items():
        torch.testing.assert_close(figure, (parts[0].figures[name] + parts[1].figures[name]) / 2)


def test_a_frozen_net_judges_the_pictures_as_they_are() -> None:
    torch.manual_seed(0)
    net = EvaluatorConfig(2, 2, (8,), (1,), image_size=16).build().eval()
    batch = LabelledBatch(scenes(6), torch.zeros(6).long(), torch.zeros(6).long())
    task = EvaluatorTask(net)
    first, second = (task.loss("evaluator", batch, draw(step)).total for step in (0, 1))
    assert torch.equal(first, second)
    net.train()
    assert not torch.equal(first, task.loss("evaluator", batch, draw()).total)


def test_it_learns_shapes_and_colours_apart() -> None:
    torch.manual_seed(0)
    net = EvaluatorConfig(2, 2, (8, 16), (1, 1), image_size=16, groups=4, dropout=0).build()
    task = EvaluatorTask(net, Augmentation(scale=(0.8, 1.1)), label_smoothing=0.0)
    disc = scenes(1)[0]
    bar = torch.full((3, 16, 16), -0.8)
    bar[:, 6:10, 1:15] = 0.8
    tint = torch.tensor([1.0, 0.2, 0.2])[:, None, None]
    pictures = torch.stack([disc, disc * tint, bar, bar * tint]).repeat(4, 1, 1, 1)
    batch = LabelledBatch(pictures, torch.tensor([0, 0, 1, 1] * 4), torch.tensor([0, 1] * 8))
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for step in range(60):
        optimizer.zero_grad()
        task.loss("evaluator", batch, draw(step, 16)).total.backward()
        optimizer.step()
    figures = task.loss("evaluator", batch, draw(1_000, 16)).figures
    assert figures["concept_top1"] == 1 and figures["style_top1"] == 1
