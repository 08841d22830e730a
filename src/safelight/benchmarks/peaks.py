"""What this machine can do at most: matrix products and convolutions of shapes that suit it."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.engines.placement import DTYPES
from safelight.models.cpu_product import linear

SIDE = 2048  # of matrices: large enough that starting a kernel costs nothing
CHANNELS, PLACES = 512, 64  # of the map that is convolved with 3x3
SECONDS = 0.6  # of each measurement
_ONEDNN: Any = getattr(torch.ops, "onednn")  # noqa: B009  its operators have no types


def measured_peaks(precision: str, device: str) -> dict[str, float]:
    """FLOP a second of the fastest way to each kind of product; integer operations for int8.

    Keys: matmul, convolution, and matmul-int8 where this build of torch has such a kernel.
    """
    dtype, place = DTYPES[precision], torch.device(device)
    with torch.no_grad():
        a, b = (torch.randn(SIDE, SIDE, device=place).to(dtype) for _ in range(2))
        maps = torch.randn(2, CHANNELS, PLACES, PLACES, device=place).to(dtype)
        weight = torch.randn(CHANNELS, CHANNELS, 3, 3, device=place).to(dtype)
        product = 2.0 * SIDE**3
        convolved = 2.0 * maps.numel() * CHANNELS * 9
        best = {
            "matmul": max(
                rate(lambda: a @ b, product, place), rate(lambda: linear(a, b), product, place)
            ),
            "convolution": max(
                rate(partial(F.conv2d, *operands, padding=1), convolved, place)
                for operands in ((maps, weight), (_last(maps), _last(weight)))
            ),
        }
        eight = [rate(call, product, place) for call in int8_products(place)]
    return best | ({"matmul-int8": max(eight)} if eight else {})


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def int8_products(place: torch.device) -> Iterator[Callable[[], Tensor]]:
    """The products of 8 bits that run here."""
    a, b = (
        torch.randint(-127, 128, (SIDE, SIDE), dtype=torch.int8, device=place) for _ in range(2)
    )
    for make in (_int_mm, _onednn):
        try:
            call = make(a, b)
            call()
        except (RuntimeError, AttributeError):
            continue
        yield call


def _int_mm(a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    return lambda: torch._int_mm(a, b)


def _onednn(a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    """oneDNN's product, with weights packed once, as int8 networks use it."""
    packed = _ONEDNN.qlinear_prepack(b, [SIDE, SIDE])
    scales = torch.ones(SIDE)
    zeros = torch.zeros(SIDE, dtype=torch.int64)
    unsigned = (a.to(torch.int16) + 128).to(torch.uint8)

    def call() -> Tensor:
        made: Tensor = _ONEDNN.qlinear_pointwise(
            unsigned, 1.0, 128, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return made

    return call


def _ready() -> None:
    """A CPU is done when a call returns."""


def rate(call: Callable[[], object], operations: float, place: torch.device) -> float:
    """Operations a second of the fastest call within `SECONDS`."""
    wait: Callable[[], object] = torch.cuda.synchronize if place.type == "cuda" else _ready
    call()
    wait()
    shortest, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        call()
        wait()
        shortest = min(shortest, time.perf_counter() - began)
    return operations / shortest
