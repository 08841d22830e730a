"""DeepCache: a network whose deep part is asked in every n-th call alone.

Ma et al. 2023 (arXiv:2312.00858). What the deep part made is kept here, not in the network.

Shapes: B pictures, C latent channels, h w latent height and width.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from safelight.condition import Condition, settings
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance.classifier_free import evaluated
from safelight.diffusion.reuse import Savings
from safelight.errors import RequestError

Kept = TypeVar("Kept", bound="Features")


class Features(Protocol):
    """What a network keeps of a call."""

    @property
    def features(self) -> Tensor: ...  # (B, C, h, w)


@runtime_checkable
class DeepNetwork(Protocol):
    """A network whose outermost blocks can be asked alone."""

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor: ...

    def with_deep(
        self, x: Tensor, time: Tensor, condition: Condition, *, blocks: int, kept: Kept | None
    ) -> tuple[Tensor, Kept]:
        """The output, and what may be kept of it; given that of an earlier call, a cheap output."""
        ...


class DeepReuse:
    """Evaluates conditions as `evaluated` does; between whole calls the deep features are kept.

    The first of `every` calls is whole, and those at or below the sigma `last`, after the noise
    level rose, or where other parts of a condition act. It remembers, so make one for every run and
    every place in which conditions are evaluated.
    """

    def __init__(self, every: int, blocks: int, savings: Savings, *, last: float) -> None:
        self._every, self._blocks, self._savings, self._last = every, blocks, savings, last
        self._kept: dict[Hashable, Features] = {}
        self._level, self._since = 0.0, 0

    def __call__(
        self,
        denoiser: Denoiser,
        conditions: Sequence[Condition],
        x: Tensor,
        sigma: Tensor,
        *,
        apart: bool = False,
    ) -> list[Tensor]:
        """The estimate (B, C, h, w) under each condition; RequestError for other networks."""
        network = denoiser.network
        if not isinstance(network, DeepNetwork):
            raise RequestError(
                "deep features can be kept only of a network that is asked as a whole and in its "
                "modules: draw without tiles and with --engine eager, or leave reuse.every out."
            )
        level = float(sigma.max())
        rose = level > self._level * (1 + 1e-6)
        whole = rose or level <= self._last or self._since >= self._every - 1
        self._since, self._level = (0 if whole else self._since + 1), level
        calls = 0

        def ask(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
            nonlocal calls
            key = (calls, len(x), _kind(condition))
            calls += 1
            before = self._kept.get(key)
            output, kept = network.with_deep(
                x, time, condition, blocks=self._blocks, kept=None if whole else before
            )
            self._kept[key] = kept
            self._tell(kept, before, len(x), batch)
            return output

        batch = x.shape[0]
        return evaluated(replace(denoiser, network=ask), conditions, x, sigma, apart=apart)

    def _tell(self, kept: Features, before: Features | None, rows: int, batch: int) -> None:
        """Count a call; each row belongs to the picture of its number, counted round the batch."""
        shallow = kept is before
        for row in range(rows):
            self._savings.count(row % batch, asked=1, made=1, shallow=int(shallow))
        if shallow or before is None or before.features.shape != kept.features.shape:
            return
        size = kept.features.float().abs().mean((1, 2, 3))
        moved = (kept.features.float() - before.features.float()).abs().mean((1, 2, 3))
        for row, change in enumerate((moved / size.clamp_min(1e-12)).tolist()):
            self._savings.measured(row % batch, change)


def _kind(condition: Condition) -> Hashable:
    """What of a condition decides the meaning of deep features, besides its tensors."""
    return (
        condition.intervention,
        tuple(settings(control) for control in condition.controls),
        tuple((p.adapter, p.scale) for p in condition.image_prompts),
    )
