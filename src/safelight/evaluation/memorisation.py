"""Whether a model draws its training pictures again, measured against pictures it never saw.

A near distance alone says little: held-out pictures of the same things lie near the training set
too. So the threshold is calibrated on them: it is the distance that one held-out real picture of a
hundred falls below. A model that copies no more than reality does has one sample of a hundred
below it. Distances are taken in any feature space, and in pixels with the background removed.

Shapes: N samples, M references, D features, S pixels of a side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.evaluation.intervals import Estimate, Share, bootstrap
from safelight.evaluation.objects import segmented
from safelight.models.evaluator import at_size

SHARE = 0.01  # of held-out real pictures below the threshold
LEAST = 20  # distances to calibrate on
_ROWS = 512


@dataclass(frozen=True, slots=True)
class Nearest:
    """For each sample its nearest reference and how far that is."""

    distance: Tensor  # (N,) float64 on the CPU
    index: Tensor  # (N,) int64 on the CPU


@dataclass(frozen=True, slots=True)
class Memorisation:
    """How near samples come to the training pictures, beside how near real pictures come."""

    space: str  # in which distances were taken
    below: Estimate  # the share of samples nearer than the threshold
    expected: float  # the share of held-out real pictures that are, by calibration
    ratio: Estimate  # median of distance to training over distance to held-out pictures
    real_ratio: Estimate | None  # the same of real held-out pictures among themselves
    thresholds: Mapping[str, float]  # by group
    worst: tuple[tuple[int, int, float], ...]  # sample, training picture, distance; nearest first


@dataclass(frozen=True, slots=True)
class Extraction:
    """How often a training caption gives back a training picture."""

    samples: Share  # of all samples
    captions: Share  # of captions that gave a copy in any of their samples


def nearest(samples: Tensor, references: Tensor, *, apart_from_self: bool = False) -> Nearest:
    """The nearest of references (M, D) to each of samples (N, D), by Euclidean distance.

    apart_from_self: the two are one set, and no row may be nearest to itself.
    """
    distances, indices = [], []
    references = references.detach().double()
    for start in range(0, len(samples), _ROWS):
        rows = samples[start : start + _ROWS].detach().double()
        apart = torch.cdist(rows, references, compute_mode="donot_use_mm_for_euclid_dist")
        if apart_from_self:
            own = torch.arange(start, start + len(rows), device=apart.device)
            apart[torch.arange(len(rows), device=apart.device), own] = torch.inf
        least = apart.min(dim=1)
        distances.append(least.values.cpu())
        indices.append(least.indices.cpu())
    return Nearest(torch.cat(distances), torch.cat(indices))


def foregrounds(pictures: Tensor, *, size: int = 64) -> Tensor:
    """Pictures (B, 3, S, S) in [-1, 1] with their background set to grey: (B, 3, size, size)."""
    held = segmented(pictures).labels > 0
    return at_size(pictures.float() * held[:, None], size)


def nearest_aligned(
    samples: Tensor,
    references: Tensor,
    *,
    shift: int = 2,
    flip: bool = True,
    shortlist: int = 16,
    apart_from_self: bool = False,
) -> Nearest:
    """The nearest picture under shifts of up to `shift` pixels each way, and mirrored.

    samples (N, 3, S, S) and references (M, 3, S, S), as `foregrounds` makes them; the distance is
    the root mean square difference, with grey past the edge. All references are compared at an
    eighth of the size, mirrored too, and the `shortlist` nearest of them with all shifts; a
    shortlist as long as the references makes the search complete. apart_from_self as in `nearest`.
    """
    shortlist = min(shortlist, len(references) - apart_from_self)
    small = [at_size(x, max(4, x.shape[-1] // 8)) for x in (samples, references)]
    coarse = torch.cdist(small[0].flatten(1), small[1].flatten(1))
    if flip:
        coarse = torch.minimum(
            coarse, torch.cdist(small[0].flip(3).flatten(1), small[1].flatten(1))
        )
    if apart_from_self:
        coarse.fill_diagonal_(torch.inf)
    candidates = coarse.topk(shortlist, largest=False).indices  # (N, K)
    distances, indices = [], []
    for sample, among in zip(samples, candidates, strict=True):
        apart = _aligned(sample, references[among], shift, flip)
        best = apart.argmin()
        distances.append(apart[best].double())
        indices.append(among[best])
    return Nearest(torch.stack(distances).cpu(), torch.stack(indices).cpu())


def calibrated(
    distances: Tensor, groups: Sequence[str] | None = None, *, share: float = SHARE
) -> dict[str, float]:
    """The distance that a share of held-out real pictures falls below, for each group of them.

    distances (H,) from held-out real pictures to the training set. Groups keep apart what is near
    for different reasons: a concept that training has in other styles, and one it has not at all.
    Raises RequestError if a group has fewer than 20 pictures.
    """
    groups = [""] * len(distances) if groups is None else groups
    thresholds = {}
    for group in sorted(set(groups)):
        rows = [i for i, name in enumerate(groups) if name == group]
        if len(rows) < LEAST:
            raise RequestError(
                f"{len(rows)} held-out pictures are too few to calibrate"
                f"{f' group {group}' if group else ''}; give {LEAST} or more, better 1000"
            )
        thresholds[group] = float(torch.quantile(distances[rows].double(), share))
    return thresholds


def memorisation(
    space: str,
    to_training: Nearest,
    thresholds: Mapping[str, float],
    pair: tuple[Nearest, Nearest],
    *,
    real: tuple[Nearest, Nearest] | None = None,
    groups: Sequence[str] | None = None,
    share: float = SHARE,
    worst: int = 16,
    seed: int = 0,
) -> Memorisation:
    """The share of samples below the threshold of their group, and the ratio of distances.

    to_training: the samples' nearest training pictures. pair: their nearest among training and
    among held-out pictures, as many of each, or the larger set would be nearer by chance. real: the
    same of held-out pictures, to training and to each other.
    Raises RequestError for a group that was not calibrated.
    """
    groups = [""] * len(to_training.distance) if groups is None else groups
    if unknown := set(groups) - set(thresholds):
        raise RequestError(
            f"group {sorted(unknown)[0]} was not calibrated; known are {', '.join(thresholds)}"
        )
    limits = torch.tensor([thresholds[group] for group in groups]).double()
    order = (to_training.distance / limits.clamp(min=1e-12)).argsort()[:worst].tolist()
    return Memorisation(
        space,
        bootstrap((to_training.distance < limits).double(), seed=seed),
        share,
        _ratio(*pair, seed),
        None if real is None else _ratio(*real, seed),
        dict(thresholds),
        tuple((i, int(to_training.index[i]), float(to_training.distance[i])) for i in order),
    )


def extraction(distances: Tensor, threshold: float) -> Extraction:
    """How many samples are near-copies, (captions, seeds) of distances to the training set."""
    copies = distances < threshold
    return Extraction(
        Share(int(copies.sum()), copies.numel()),
        Share(int(copies.any(dim=1).sum()), len(copies)),
    )


def _ratio(one: Nearest, other: Nearest, seed: int) -> Estimate:
    ratios = one.distance / other.distance.clamp(min=1e-12)
    return bootstrap(ratios, seed=seed, statistic=lambda x: x.median(dim=1).values)


def _aligned(sample: Tensor, references: Tensor, shift: int, flip: bool) -> Tensor:
    """The least root mean square difference to each of references (K, 3, S, S): (K,)."""
    size = sample.shape[-1]
    ways = [sample, sample.flip(2)] if flip else [sample]
    padded = F.pad(torch.stack(ways), (shift,) * 4)  # (1 or 2, 3, S + 2 shift, S + 2 shift)
    least = torch.full((len(references),), torch.inf, device=sample.device)
    for down in range(2 * shift + 1):
        for right in range(2 * shift + 1):
            moved = padded[:, :, down : down + size, right : right + size]
            apart = (references[:, None] - moved).square().mean(dim=(2, 3, 4))  # (K, ways)
            least = torch.minimum(least, apart.amin(dim=1))
    return least.sqrt()
