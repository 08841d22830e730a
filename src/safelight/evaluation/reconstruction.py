"""How much an autoencoder keeps: PSNR and SSIM over a set, and distances of features."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.evaluation.frechet import DIMENSIONS, FrechetDistance, frechet
from safelight.evaluation.intervals import Estimate, bootstrap
from safelight.evaluation.pairs import Pairs
from safelight.evaluation.report import Cell, Table
from safelight.measures.pictures import psnr, ssim

Again = Callable[[Tensor], Tensor]  # pictures (B, 3, S, S) -> the same, encoded and decoded
Features = Callable[[Tensor], Tensor]  # pictures (B, 3, S, S) -> (B, D)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """The means over the pictures of a set, each with its interval."""

    psnr: Estimate  # dB
    ssim: Estimate
    frechet: FrechetDistance | None  # of the evaluator's features, pictures against themselves


@torch.no_grad()
def reconstruction(
    pictures: Tensor,
    again: Again,
    *,
    features: Features | None = None,
    dimensions: int = DIMENSIONS,
    batch: int = 64,
    seed: int = 0,
) -> Reconstruction:
    """What is kept of pictures (N, 3, S, S) in [-1, 1] that went through a codec.

    What comes back is clamped to [-1, 1], as a picture file does. A picture that comes back exactly
    counts with 120 dB. Raises RequestError for an empty set.
    """
    if len(pictures) == 0:
        raise RequestError("there are no pictures to reconstruct; give at least one")
    decibels, likeness, before, after = [], [], [], []
    for part in pictures.split(batch):
        back = again(part).float().clamp(-1, 1)
        decibels.append(psnr(back, part).clamp(max=120))
        likeness.append(ssim(back, part))
        if features is not None:
            before.append(features(part))
            after.append(features(back))
    distance = None
    if features is not None and len(pictures) > dimensions:
        distance = frechet(torch.cat(before), torch.cat(after), dimensions=dimensions)
    return Reconstruction(
        bootstrap(torch.cat(decibels), seed=seed),
        bootstrap(torch.cat(likeness), seed=seed),
        distance,
    )


def reconstruction_table(pairs: Pairs, again: Again) -> Table:
    """What an autoencoder gives back of the reference pictures, beside them."""
    found = reconstruction(
        pairs.reference,
        again,
        features=pairs.space.features,
        dimensions=pairs.dimensions,
        batch=pairs.batch,
        seed=pairs.seed,
    )
    rows: dict[str, list[Cell]] = {
        "PSNR, dB": [found.psnr],
        "SSIM": [found.ssim],
        f"{pairs.space.name} Fréchet": [found.frechet],
    }
    return Table("Reconstruction of the reference pictures", ("autoencoder",), rows)
