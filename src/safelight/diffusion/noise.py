"""Noise that belongs to a picture, not to a batch.

Every picture has its own seed and generator, so picture k of a batch is the picture made alone
with its seed. Shapes: B pictures, C latent channels, h w latent height and width.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from safelight.diffusion.brownian import BrownianPath
from safelight.diffusion.philox import PhiloxGenerator
from safelight.errors import RequestError

Source = Literal["cpu", "nv"]
Shape = tuple[int, int, int]  # (C, h, w)


class Generator(Protocol):
    """A stream of standard normal tensors."""

    def randn(self, shape: Sequence[int]) -> Tensor: ...


class CpuGenerator:
    """PyTorch's CPU stream. It reads the low 32 bits of a seed, so seeds repeat beyond 2**32."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def randn(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self._generator)


def generator(seed: int, source: Source = "cpu") -> Generator:
    """A new stream: "cpu" is PyTorch's, "nv" imitates an NVIDIA GPU's (A1111's names).

    Raises RequestError for another source, or a seed outside -2**63 .. 2**64 - 1.
    """
    if not -(2**63) <= seed < 2**64:
        raise RequestError(f"a seed must lie between -2**63 and 2**64 - 1; got {seed}.")
    if source == "cpu":
        return CpuGenerator(seed)
    if source == "nv":
        return PhiloxGenerator(seed)
    raise RequestError(f"unknown noise source {source!r}; choose cpu or nv.")


class Noise:
    """The noise of one run: first the start noise, then a draw for every call.

    `noise()` gives (B, C, h, w) float32 on `device`; picture i continues the generator of
    `seeds[i]`. Options, as in A1111:

    subseeds, subseed_strength: the first draw is mixed spherically with the subseed's.
    resize_from: (h, w) of another size, whose first draw fills the centre of this one.
    eta_seed_delta: "ENSD"; draws after the first come from seed + delta. 0 means no reseeding.
    multiplier: factor on the first draw.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Shape,
        *,
        source: Source = "cpu",
        subseeds: Sequence[int] | None = None,
        subseed_strength: float = 0.0,
        resize_from: tuple[int, int] | None = None,
        eta_seed_delta: int = 0,
        multiplier: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Raises RequestError if there are no seeds, or not as many subseeds as seeds."""
        if not seeds:
            raise RequestError("noise needs at least one seed; got none.")
        if subseeds is not None and len(subseeds) != len(seeds):
            raise RequestError(
                f"expected a subseed for each of {len(seeds)} seeds; got {len(subseeds)}."
            )
        self.seeds = tuple(seeds)
        self.shape = shape
        self._source: Source = source
        self._subseeds = tuple(subseeds) if subseeds is not None and subseed_strength else None
        self._subseed_strength = subseed_strength
        self._resize_from = resize_from
        self._eta_seed_delta = eta_seed_delta
        self._multiplier = multiplier
        self._device = device
        self._generators = [generator(seed, source) for seed in self.seeds]
        self._paths = [BrownianPath(seed, self._first_of) for seed in self.seeds]
        self._started = False

    def __call__(self) -> Tensor:
        """The next draw for every picture, (B, C, h, w) float32."""
        if self._started:
            return self._stacked([g.randn(self.shape) for g in self._generators])
        self._started = True
        first = self._stacked([self._first(i) for i in range(len(self.seeds))])
        if self._eta_seed_delta:
            self._generators = [
                generator(seed + self._eta_seed_delta, self._source) for seed in self.seeds
            ]
        return first * self._multiplier

    def brownian(self, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
        """The unit-variance increment of each picture's Brownian path between two noise levels.

        (B, C, h, w) float32. The path is fixed by the seed: increments over parts, each times the
        root of its length, add up to the increment over the whole, in whatever order they are
        asked for. Draws of `noise()` and those of the path do not disturb each other.
        """
        start, end = float(sigma), float(sigma_next)
        return self._stacked([path.increment(start, end) for path in self._paths])

    def _first(self, i: int) -> Tensor:
        own = self._generators[i]
        if self._resize_from is None:
            return self._varied(i, own.randn(self.shape))
        other = (self.shape[0], *self._resize_from)
        inner = self._varied(i, generator(self.seeds[i], self._source).randn(other))
        return _centred(inner, own.randn(self.shape))

    def _varied(self, i: int, noise: Tensor) -> Tensor:
        if self._subseeds is None:
            return noise
        other = generator(self._subseeds[i], self._source).randn(noise.shape)
        return slerp(self._subseed_strength, noise, other)

    def _first_of(self, seed: int) -> Tensor:
        return generator(seed, self._source).randn(self.shape)

    def _stacked(self, pictures: list[Tensor]) -> Tensor:
        return torch.stack(pictures).to(self._device)


def slerp(strength: float, start: Tensor, end: Tensor) -> Tensor:
    """The spherical mix of two noises (C, h, w): `start` at strength 0, `end` at 1.

    As in A1111 each column along the second axis turns by its own angle; where the mean cosine
    exceeds 0.9995 the mix is linear, because the sine of the angle is lost to rounding.
    """
    cosine = torch.cosine_similarity(start, end, dim=1, eps=0.0)
    if cosine.mean() > 0.9995:
        return torch.lerp(start, end, strength)
    angle = cosine.clamp(-1, 1).acos().unsqueeze(1)
    weighted = ((1 - strength) * angle).sin() * start + (strength * angle).sin() * end
    # Parallel columns have no plane to turn in (always so when h is 1).
    return torch.where(angle.sin() > 1e-6, weighted / angle.sin(), torch.lerp(start, end, strength))


def _centred(inner: Tensor, outer: Tensor) -> Tensor:
    """`outer` (C, h, w) with its centre replaced by that of `inner` (C, h', w')."""
    result = outer.clone()
    target, source = result, inner
    for axis in (1, 2):
        difference = target.shape[axis] - source.shape[axis]
        # A1111 takes floor(difference / 2) on either side of 0; the wider one is cut there.
        offset = difference // 2
        if difference >= 0:
            target = target.narrow(axis, offset, source.shape[axis])
        else:
            kept = source.shape[axis] + 2 * offset
            source = source.narrow(axis, -offset, kept)
            target = target.narrow(axis, 0, kept)
    target.copy_(source)
    return result
