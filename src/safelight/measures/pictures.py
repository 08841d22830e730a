"""How like two pictures are: PSNR, SSIM, MS-SSIM, and the pyramid of their details.

All measures take pictures (B, C, H, W) of any floating-point type, compute in float32, give one
number a picture, (B,), and let gradients through. `black` and `white` are the ends of the range:
SSIM is defined for values from 0 up, so pictures are moved there first.

Shapes: B batch, C colours, H W pixels.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.errors import RequestError

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""How much each scale of MS-SSIM counts, finest first: found with viewers by Wang et al. 2003."""

_K1, _K2 = 0.01, 0.03  # Wang et al. 2004, section III.B
_SIGMA = 1.5  # of the window of 11; other windows keep the proportion
_LEAST = 1e-6  # contrasts that disagree count as this: a negative number has no broken power


def psnr(a: Tensor, b: Tensor, *, black: float = -1.0, white: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in decibels, (B,); infinite for equal pictures."""
    error = (a.float() - b.float()).square().flatten(1).mean(dim=1)
    return 10.0 * torch.log10((white - black) ** 2 / error)


def ssim(
    a: Tensor, b: Tensor, *, black: float = -1.0, white: float = 1.0, window: int = 11
) -> Tensor:
    """Structural similarity, (B,): 1 for equal pictures.

    A Gaussian window (sigma 1.5 for the usual 11 pixels), only where it lies wholly inside, and the
    mean over places and colours. Wang et al. 2004 (doi:10.1109/TIP.2003.819861).
    Raises RequestError if a side is smaller than the window, or the window is even.
    """
    _check(a, b, window)
    whole, _ = _similarities(a.float() - black, b.float() - black, white - black, window)
    return whole.mean(dim=1)


def ms_ssim(
    a: Tensor,
    b: Tensor,
    *,
    black: float = -1.0,
    white: float = 1.0,
    window: int = 11,
    scales: int | None = None,
) -> Tensor:
    """Structural similarity over several scales, (B,): 1 for equal pictures.

    Each scale has half the size of the last; contrast and structure count at every scale, luminance
    at the coarsest. `scales` is 5 in the paper; None takes as many, up to 5, as leave the window
    room. With fewer than 5 the weights are scaled to sum to 1. Wang et al. 2003
    (doi:10.1109/ACSSC.2003.1292216). Raises RequestError if the coarsest is smaller than the
    window, or the window is even.
    """
    _check(a, b, window)
    possible = fitting_scales(min(a.shape[2:]), window)
    count = possible if scales is None else scales
    if not 1 <= count <= possible:
        raise RequestError(
            f"MS-SSIM with a window of {window} has 1 to {possible} scales in pictures of"
            f" {a.shape[3]} x {a.shape[2]} pixels; got {count}. Use fewer scales or a smaller"
            " window."
        )
    total = sum(SCALE_WEIGHTS[:count])
    product = torch.ones(a.shape[:2], device=a.device)  # (B, C)
    x, y = a.float() - black, b.float() - black
    for scale, weight in enumerate(SCALE_WEIGHTS[:count]):
        whole, contrast = _similarities(x, y, white - black, window)
        seen = whole if scale == count - 1 else contrast
        # The clamp keeps the power's slope finite: at 0 it would be infinite.
        product = product * seen.clamp(min=_LEAST) ** (weight / total)
        if scale < count - 1:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return product.mean(dim=1)


def fitting_scales(side: int, window: int) -> int:
    """How many scales of MS-SSIM, at most 5, leave the window room in a side of so many pixels."""
    if side < window:
        return 0
    return min(len(SCALE_WEIGHTS), int(math.log2(side // window)) + 1)


def laplacian_pyramid(x: Tensor, levels: int) -> tuple[Tensor, ...]:
    """The details of each scale, finest first, and at last what is left: `levels` tensors.

    (B, C, H, W), then half of each side, rounded up, and so on; float32. Linear: the pyramid of a
    difference is the difference of the pyramids. `collapsed` gives the picture again.
    Burt and Adelson 1983 (doi:10.1109/TCOM.1983.1095851), with the filter (1, 3, 3, 1) / 8.
    """
    if levels < 1:
        raise RequestError(f"a pyramid has at least 1 level; got {levels}")
    x = x.float()
    bands = []
    for _ in range(levels - 1):
        smaller = _halved(x)
        bands.append(x - _enlarged(smaller, x.shape[2], x.shape[3]))
        x = smaller
    return (*bands, x)


def collapsed(pyramid: tuple[Tensor, ...]) -> Tensor:
    """The picture that a Laplacian pyramid was made of."""
    x = pyramid[-1]
    for band in reversed(pyramid[:-1]):
        x = band + _enlarged(x, band.shape[2], band.shape[3])
    return x


# -- parts -----------------------------------------------------------------------------------------


def _similarities(x: Tensor, y: Tensor, span: float, window: int) -> tuple[Tensor, Tensor]:
    """Means over all places of SSIM, and of its contrast and structure alone: (B, C) each."""
    c1, c2 = (_K1 * span) ** 2, (_K2 * span) ** 2
    seen = torch.stack((x, y, x * x, y * y, x * y))  # (5, B, C, H, W)
    mean_x, mean_y, square_x, square_y, product = _blurred(seen, window)
    variances = square_x - mean_x.square() + square_y - mean_y.square()
    covariance = product - mean_x * mean_y
    contrast = (2 * covariance + c2) / (variances + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (luminance * contrast).mean(dim=(2, 3)), contrast.mean(dim=(2, 3))


# Filters are products with banded matrices: quick for pictures of these sizes, and exact to float32
# unless products are told otherwise. cuDNN would round convolutions to TF32, while SSIM subtracts
# nearly equal numbers; and on a GPU the gradients of torch's paddings and interpolations add up in
# no fixed order, so a run would not repeat itself.


def _filtered(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps (..., H, W) through matrices (H', H) and (W', W): (..., H', W')."""
    return rows @ (x @ columns.T)


def _blurred(x: Tensor, window: int) -> Tensor:
    """Gaussian means of maps (..., H, W) wherever the window fits: (..., H - w + 1, W - w + 1)."""
    height, width = x.shape[-2:]
    return _filtered(x, *(_window(side, window, x.device) for side in (height, width)))


def _halved(x: Tensor) -> Tensor:
    """Half of each side, rounded up: every second place after the filter (1, 3, 3, 1) / 8."""
    return _filtered(x, *(_half(side, x.device) for side in x.shape[-2:]))


def _enlarged(x: Tensor, height: int, width: int) -> Tensor:
    """A half back to its whole size, linear between the places."""
    return _filtered(x, *(_double(side, x.device) for side in (height, width)))


@lru_cache(maxsize=64)
def _window(side: int, window: int, device: torch.device) -> Tensor:
    """(side - window + 1, side): a Gaussian of unit sum in every row."""
    middle, sigma = window // 2, _SIGMA * window / 11
    taps = [math.exp(-0.5 * ((i - middle) / sigma) ** 2) for i in range(window)]
    places = torch.arange(side - window + 1)
    return _banded(side, [(places + i, tap / sum(taps)) for i, tap in enumerate(taps)], device)


@lru_cache(maxsize=64)
def _half(side: int, device: torch.device) -> Tensor:
    """(ceil(side / 2), side): (1, 3, 3, 1) / 8 around every second pair, edges repeated."""
    pairs = 2 * torch.arange((side + 1) // 2)
    taps = enumerate((0.125, 0.375, 0.375, 0.125), start=-1)
    return _banded(side, [(pairs + i, tap) for i, tap in taps], device)


@lru_cache(maxsize=64)
def _double(side: int, device: torch.device) -> Tensor:
    """(side, ceil(side / 2)): three quarters of the own place, the rest of the nearer neighbour."""
    places = torch.arange(side)
    own, step = places // 2, 2 * (places % 2) - 1
    return _banded((side + 1) // 2, [(own, 0.75), (own + step, 0.25)], device)


def _banded(width: int, taps: Sequence[tuple[Tensor, float]], device: torch.device) -> Tensor:
    """A matrix with a weight at a column of each row, for each tap; outside counts as the edge."""
    # Kept for calls that may want gradients, which what is made in inference mode cannot serve.
    with torch.inference_mode(False):
        rows = torch.arange(len(taps[0][0]))
        matrix = torch.zeros(len(rows), width)
        for columns, weight in taps:
            matrix[rows, columns.clamp(0, width - 1)] += weight
        return matrix.to(device)


def _check(a: Tensor, b: Tensor, window: int) -> None:
    if a.shape != b.shape:
        raise RequestError(
            f"pictures of one size can be compared; got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if window % 2 == 0 or min(a.shape[2:]) < window:
        raise RequestError(
            f"a window of {window} does not fit pictures of {a.shape[3]} x {a.shape[2]} pixels."
            " Use an odd window no larger than the shorter side."
        )
