"""Connected areas: the same as another implementation finds, on every mask."""

import pytest
import torch
from scipy import ndimage

from safelight.evaluation.components import filled, labelled


def masks(density: float, seed: int, count: int = 4, size: int = 33) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, size, size + 3, generator=generator) < density


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.35, 0.5, 0.62, 0.9, 1.0])
def test_areas_are_those_of_scipy(density: float, corners: bool) -> None:
    mask = masks(density, seed=int(density * 100))
    labels, counts = labelled(mask, corners=corners)
    structure = ndimage.generate_binary_structure(2, 2 if corners else 1)
    for ours, count, one in zip(labels, counts, mask, strict=True):
        theirs, expected = ndimage.label(one.numpy(), structure)
        assert int(count) == expected
        # The same areas under other numbers: each pair of numbers occurs together only.
        pairs = torch.stack([ours.flatten(), torch.from_numpy(theirs).flatten().long()])
        assert len(pairs.unique(dim=1).T) == expected + int(not one.all())


def test_numbers_go_from_the_largest_to_the_smallest() -> None:
    labels, counts = labelled(masks(0.3, seed=1))
    for ours, count in zip(labels, counts, strict=True):
        sizes = torch.bincount(ours.flatten())[1:]
        assert len(sizes) == count and torch.equal(sizes, sizes.sort(descending=True).values)


def test_a_spiral_is_one_area() -> None:
    """The longest path that fits: a method that spreads pixel by pixel needs hundreds of rounds."""
    size = 61
    mask = torch.zeros(size, size, dtype=torch.bool)
    y, x, dy, dx = 0, 0, 0, 1
    low, high = [0, 0], [size - 1, size - 1]
    mask[y, x] = True
    while True:
        moved = False
        while low[0] <= y + dy <= high[0] and low[1] <= x + dx <= high[1]:
            y, x, moved = y + dy, x + dx, True
            mask[y, x] = True
        if not moved:
            break
        if (dy, dx) == (0, 1):
            low[0] += 2
        elif (dy, dx) == (1, 0):
            high[1] -= 2
        elif (dy, dx) == (0, -1):
            high[0] -= 2
        else:
            low[1] += 2
        dy, dx = dx, -dy
    assert labelled(mask[None], corners=False)[1].item() == ndimage.label(mask.numpy())[1] == 1


def test_a_mask_is_labelled_alike_alone_and_among_others() -> None:
    mask = masks(0.5, seed=2)
    together, counts = labelled(mask)
    for i in range(len(mask)):
        alone, count = labelled(mask[i : i + 1])
        assert torch.equal(alone[0], together[i]) and count == counts[i]


@pytest.mark.parametrize("density", [0.0, 0.4, 0.6, 0.8])
def test_holes_are_filled_as_scipy_fills_them(density: float) -> None:
    mask = masks(density, seed=3)
    for ours, one in zip(filled(mask), mask, strict=True):
        assert torch.equal(ours, torch.from_numpy(ndimage.binary_fill_holes(one.numpy())))
