"""How fast a device computes and how much memory a process takes: measured in about two seconds.

The layers that are timed are the library's own, of the shapes that take the most time in published
models, so that whatever kernels they choose are what is timed.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from safelight.engines.budget_work import Work
from safelight.models.attention import attend
from safelight.models.layers import Conv2d, Linear, Upsample

SECONDS = 0.25  # of each measurement, at least one call
BETWEEN = 3  # norms, activations and sums for each layer that has a matrix
READING = 1.2e9  # bytes of weights a second that are in the system's cache, cast on the way


@dataclass(frozen=True)
class Rates:
    """Operations a second of each kind of work, in one type on one device.

    layer: seconds that calling a layer takes whatever it computes, with what lies between layers.
    slower: by how much drawings took longer than these rates said, so far; 1 at first.
    """

    convolution: float
    upsampling: float
    linear: float
    attention: float
    layer: float
    slower: float = 1.0

    def seconds(self, work: Work, layers: float = 0.0) -> float:
        """How long work takes that is done in so many calls of layers."""
        return self.slower * (
            layers * self.layer
            + work.convolution / self.convolution
            + work.upsampling / self.upsampling
            + work.linear / self.linear
            + work.attention / self.attention
        )

    def learnt(self, ratio: float) -> "Rates":
        """These rates after a drawing took `ratio` times as long as they said.

        A drawing counts a half; what is more than four times off was the fault of something else.
        """
        slower = self.slower * min(max(ratio, 0.25), 4.0) ** 0.5
        return replace(self, slower=min(max(slower, 0.1), 10.0))


@torch.no_grad()
def measured_rates(dtype: torch.dtype, device: torch.device) -> Rates:
    """The rates of a device for a type, from one layer of each kind."""

    def maps(channels: int, side: int) -> Tensor:
        return torch.randn(2, channels, side, side, device=device).to(dtype)

    def tokens(count: int, width: int) -> Tensor:
        return torch.randn(2, count, width, device=device).to(dtype)

    def placed(layer: torch.nn.Module) -> torch.nn.Module:
        return layer.to(device, dtype).eval().requires_grad_(False)

    large, small = placed(Conv2d(320, 320, 3, padding=1)), placed(Conv2d(1280, 1280, 3, padding=1))
    wide, narrow = maps(320, 64), maps(1280, 16)
    doubling, before = placed(Upsample(640)), maps(640, 32)
    product, given = placed(Linear(640, 2560)), tokens(1024, 640)
    query, key, value = (tokens(2048, 320) for _ in range(3))
    least, one = placed(Linear(32, 32)), tokens(1, 32)
    conv_small = 2.0 * 2 * 16**2 * 1280**2 * 9
    conv_large = 2.0 * 2 * 64**2 * 320**2 * 9

    def convolve() -> None:
        large(wide)
        small(narrow)

    return Rates(
        convolution=_rate(convolve, conv_large + conv_small, device),
        upsampling=_rate(lambda: doubling(before), 2.0 * 2 * 64**2 * 640**2 * 9, device),
        linear=_rate(lambda: product(given), 2.0 * 2048 * 640 * 2560, device),
        attention=_rate(lambda: attend(query, key, value, 8), 4.0 * 2 * 2048**2 * 320, device),
        layer=(1 + BETWEEN) / _rate(lambda: least(one), 1.0, device),
    )


def _rate(call: Callable[[], object], operations: float, device: torch.device) -> float:
    """Operations a second of the fastest call."""
    wait = torch.cuda.synchronize if device.type == "cuda" else _no_wait
    call()
    wait()
    shortest, end = float("inf"), time.perf_counter() + SECONDS
    while shortest == float("inf") or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        wait()
        shortest = min(shortest, time.perf_counter() - began)
    return operations / shortest


def _no_wait() -> None:
    """A CPU is done when it returns."""


def process_bytes() -> int:
    """Memory that this process has now; what an interpreter with PyTorch takes where unknown."""
    found = _status("VmRSS")
    return 300_000_000 if found is None else found


def peak_bytes() -> int | None:
    """The most memory that this process ever had; None where the system does not tell."""
    if (found := _status("VmHWM")) is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)


def device_peak_bytes(device: torch.device) -> int | None:
    """The most memory that was taken where the work is done."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return peak_bytes() if device.type == "cpu" else None


def available_bytes(device: torch.device) -> int | None:
    """Memory that can be had where the work is done; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return _field(Path("/proc/meminfo"), "MemAvailable") if device.type == "cpu" else None


def _status(name: str) -> int | None:
    return _field(Path("/proc/self/status"), name)


def _field(path: Path, name: str) -> int | None:
    """Bytes of one line of a file of the kernel's, which counts in kB."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
