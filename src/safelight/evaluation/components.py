"""Connected areas of masks, for whole batches and on any device.

Shapes: B masks, H W pixels.
"""

import torch
from torch import Tensor

_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # each pair of neighbours once: four sides, two corners


def labelled(mask: Tensor, *, corners: bool = True) -> tuple[Tensor, Tensor]:
    """The connected areas of each mask, numbered from 1 by size, and how many each has.

    mask (B, H, W) bool -> (B, H, W) int64, 0 outside, and (B,) int64. Areas of one size are
    numbered in reading order. With `corners`, pixels that touch by a corner are connected.

    Every pixel starts as its own root; roots hook onto the smallest root beside them, and paths are
    halved, until nothing changes: a number of rounds that grows like the logarithm of the size
    (Shiloach and Vishkin 1982, doi:10.1016/0196-6774(82)90008-6).
    """
    place = torch.arange(mask.numel(), device=mask.device).view_as(mask)
    pairs = [_pairs(mask, place, *step) for step in (_STEPS if corners else _STEPS[:2])]
    one, other = (torch.cat(ends) for ends in zip(*pairs, strict=True))
    root = place.flatten()
    while True:
        a, b = root[one], root[other]
        unequal = a != b
        if not unequal.any():
            break
        one, other, a, b = one[unequal], other[unequal], a[unequal], b[unequal]
        hooked = root.scatter_reduce(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
        root = _flat(hooked)
    return _numbered(root[mask.flatten()], mask)


def filled(mask: Tensor) -> Tensor:
    """The masks with their holes filled: what the border cannot reach without crossing them.

    mask (B, H, W) bool -> the same. Outside runs through sides only, so a diagonal line holds.
    """
    # A frame of outside joins all that touches the border.
    outside = torch.nn.functional.pad(~mask, (1, 1, 1, 1), value=True)
    labels, _ = labelled(outside, corners=False)
    frame = labels[:, :1, :1]
    return (labels != frame)[:, 1:-1, 1:-1]


def _pairs(mask: Tensor, place: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """The places of neighbours a step apart that are both in the mask."""
    height, width = mask.shape[1:]
    left = max(0, -right)
    here = (slice(None), slice(0, height - down), slice(left, width - max(0, right)))
    there = (slice(None), slice(down, height), slice(left + right, width - max(0, right) + right))
    both = mask[here] & mask[there]
    return place[here][both], place[there][both]


def _flat(root: Tensor) -> Tensor:
    """Every place pointing straight at the end of its path."""
    while True:
        shorter = root[root]
        if torch.equal(shorter, root):
            return root
        root = shorter


def _numbered(roots: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers from 1 in each mask, largest area first, of the roots of its pixels."""
    labels = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
    known, which, size = roots.unique(return_inverse=True, return_counts=True)
    owner = known // (mask.shape[1] * mask.shape[2])
    counts = torch.bincount(owner, minlength=len(mask))
    # By mask, then from large to small; `known` ascends, so equal sizes keep the reading order.
    order = torch.argsort(-size, stable=True)
    order = order[torch.argsort(owner[order], stable=True)]
    first = counts.cumsum(0) - counts
    number = torch.empty_like(known)
    number[order] = torch.arange(len(known), device=mask.device) - first[owner[order]] + 1
    labels[mask] = number[which]
    return labels, counts
