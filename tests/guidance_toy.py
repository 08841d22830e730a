"""A small network for tests of guidance, and what goes in and comes out of it."""

import torch
from torch import Tensor

from safelight.condition import Condition
from safelight.diffusion.prediction import EPS
from safelight.diffusion.process import ddpm

SD = ddpm(EPS)
SIGMA = torch.tensor(3.0, dtype=torch.float64)


class Toy:
    """A network that mixes neighbours, tells its conditions apart, and remembers its calls."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(1)
        self.kernel = torch.randn(4, 4, 3, 3, generator=rng) / 6
        self.map = torch.randn(2, 2, 16, 16, generator=rng).mul(3).softmax(-1)
        self.calls: list[tuple[Tensor, Condition]] = []

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.calls.append((x, condition))
        told = condition.context.mean(1)[:, :, None, None]  # (B, 4, 1, 1)
        if condition.intervention.identity_attention:
            told = told + 0.5
        mixed = torch.nn.functional.conv2d(x + told, self.kernel, padding=1)
        return mixed.tanh() + 0.001 * time[:, None, None, None] * told

    @property
    def contexts(self) -> list[Tensor]:
        return [condition.context for _, condition in self.calls]


class Watched(Toy):
    """A toy that also shows an attention map, of 4 x 4 places."""

    def with_attention(
        self, x: Tensor, time: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        return self(x, time, condition), self.map[: len(x)]


def context(seed: int, batch: int = 1, length: int = 5) -> Condition:
    rng = torch.Generator().manual_seed(seed)
    return Condition(torch.randn(batch, length, 4, generator=rng))


def latents(seed: int = 9, batch: int = 2, size: int = 8) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(batch, 4, size, size, generator=rng)


def near(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.std())


POSITIVE, NEGATIVE, OTHER = context(2), context(3), context(4)
