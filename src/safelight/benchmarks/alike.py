"""Whether two contenders did the same work: how far their outputs are apart."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from safelight.measures.pictures import psnr

Array = NDArray[np.generic]
EQUAL = 120.0  # dB that equal pictures count as

# Root mean square difference, in deviations of the reference, that rounding explains at random
# weights. The largest of millions of differences may be ten times that. Numbers of 8 bits: 5 % was
# seen of SD 1.5's U-Net.
TOLERANCE: Mapping[str, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1.6e-1, "int8": 3e-1}
# Mean difference of two pictures of few steps, in deviations of the pixels.
NEAR = 0.1


@dataclass(frozen=True)
class Apart:
    """How far an output is from the reference, and whether that may be rounding."""

    typical: float  # root mean square, in deviations of the reference; of pictures the mean
    largest: float
    allowed: float

    @property
    def same(self) -> bool:
        """Whether it is the same work; a NaN is not."""
        return self.typical <= self.allowed

    def line(self) -> dict[str, object]:
        return {
            "apart": float(f"{self.typical:.3g}"),
            "apart_largest": float(f"{self.largest:.3g}"),
            "apart_allowed": self.allowed,
        }


def apart(output: Array, reference: Array, allowed: float) -> Apart:
    """How far the output is from the reference, in its deviations.

    Different shapes, and a reference without any deviation to measure by, are infinitely far.
    """
    if output.shape != reference.shape:
        return Apart(float("inf"), float("inf"), allowed)
    wanted = reference.astype(np.float64)
    away = output.astype(np.float64) - wanted
    deviation = float(wanted.std())
    if not deviation:
        return Apart(float("inf"), float("inf"), allowed)
    typical = float(np.sqrt(np.square(away).mean())) / deviation
    return Apart(typical, float(np.abs(away).max()) / deviation, allowed)


def pictures_apart(output: Array, reference: Array) -> Apart:
    """The same for pixels of 0 to 255: the mean difference, which rounding over steps allows."""
    if output.shape != reference.shape:
        return Apart(float("inf"), float("inf"), NEAR)
    wanted = reference.astype(np.float64)
    away = np.abs(output.astype(np.float64) - wanted)
    deviation = float(wanted.std())
    if not deviation:
        return Apart(float("inf"), float("inf"), NEAR)
    return Apart(float(away.mean()) / deviation, float(away.max()) / deviation, NEAR)


def decibels(pictures: Array, reference: Array) -> float:
    """PSNR of pixels of 0 to 255 (B, H, W, 3), of the picture that is farthest; at most EQUAL."""
    a, b = (torch.from_numpy(one.astype(np.float32)) for one in (pictures, reference))
    return min(EQUAL, float(psnr(a, b, black=0.0, white=255.0).min()))
