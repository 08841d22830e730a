"""Restart: go back up in noise once or twice on the way down, which contracts earlier errors.

Xu et al. 2023 (arXiv:2306.14878), with the settings that A1111 made common.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from safelight.diffusion.denoiser import Denoise
from safelight.diffusion.samplers.euler import heun_step
from safelight.diffusion.samplers.step import Draws, Step, at, levels

LOW, HIGH = 0.1, 2.0  # the interval that is run again, in sigma
RHO = 7.0  # levels are spaced evenly in sigma^(1 / RHO), as in Karras et al. 2022, eq. 5


@torch.no_grad()
def restart(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Draws, *, s_noise: float = 1.0
) -> Iterator[Step]:
    """Heun's method, with the levels from about 0.1 to about 2 run once more, or twice more.

    From 20 steps on, nine steps are set aside for one restart; from 36 on, a quarter of the steps
    for each of two. The remaining levels are read off the given schedule, so the number of steps
    stays as asked: for a Karras schedule they are exactly those of a shorter one, which is what
    A1111 runs. Below 20 steps, and where the schedule does not cross the interval, it is Heun's
    method. Two calls a step. (A fresh start at sigma_max adds √(2² - 0.1²) of noise.)
    """
    path = restart_path(levels(sigmas))
    current = path[0][0]
    for sigma, lower in path:
        if sigma > current:
            added = math.sqrt((sigma - current) * (sigma + current))
            x = x + added * s_noise * noise().to(x)
        x, denoised = heun_step(denoise, x, sigma, lower)
        current = lower
        yield Step(x, denoised, at(lower))


def restart_path(every: Sequence[float]) -> list[tuple[float, float]]:
    """The steps (from, to), as many as `every` has; a step that begins above the last one's end
    is a restart."""
    count = len(every) - 1
    times, width = (0, 0) if count < 20 else (1, 9) if count < 36 else (2, count // 4)
    body, end = (every, []) if every[-1] > 0 else (every[:-1], [0.0])
    kept = [*_thinned(body, len(body) - times * width), *end]
    low, high = _nearest(kept, LOW), _nearest(kept, HIGH)
    if times == 0 or high >= low:
        return list(pairwise(every))
    again = list(pairwise(_spaced(kept[high], kept[low], width + 1)))
    path = list(pairwise(kept))
    return path[:low] + again * times + path[low:]


def _thinned(body: Sequence[float], count: int) -> list[float]:
    """`count` levels of the same shape and the same ends."""
    roots = [sigma ** (1 / RHO) for sigma in body]
    inner = []
    for i in range(1, count - 1):
        place = i * (len(body) - 1) / (count - 1)
        j = int(place)
        inner.append((roots[j] + (place - j) * (roots[j + 1] - roots[j])) ** RHO)
    return [body[0], *inner, body[-1]]


def _spaced(high: float, low: float, count: int) -> list[float]:
    start, stop = high ** (1 / RHO), low ** (1 / RHO)
    inner = [(start + i / (count - 1) * (stop - start)) ** RHO for i in range(1, count - 1)]
    return [high, *inner, low]


def _nearest(every: Sequence[float], sigma: float) -> int:
    return min(range(len(every)), key=lambda i: abs(every[i] - sigma))
