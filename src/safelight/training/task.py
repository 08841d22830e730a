"""What a recipe gives to the loop: what learns, from what, and its loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from torch import Tensor, nn

from safelight.training.draw import Draw


@dataclass(frozen=True, slots=True)
class Loss:
    """A scalar to go down, averaged over the rows it was given, and figures to be shown beside it.

    figures are scalars without gradient, averages over the same rows; they stay on the device.
    """

    total: Tensor
    figures: Mapping[str, Tensor] = field(default_factory=dict)


B_co = TypeVar("B_co", covariant=True)
B_contra = TypeVar("B_contra", contravariant=True)


class Data(Protocol[B_co]):
    """Examples by number."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], draw: Draw) -> B_co:
        """The examples of these numbers, on the device; `draw` gives what is random about them."""
        ...


class Task(Protocol[B_contra]):
    """What learns, and how it is judged.

    Each player is a module with an optimizer of its own; in a step they take their turns in order.
    Most tasks have one; an autoencoder has its critic as the second.
    """

    @property
    def players(self) -> Mapping[str, nn.Module]: ...

    def plays(self, player: str, step: int) -> bool:
        """Whether this player learns in this step."""
        ...

    def loss(self, player: str, batch: B_contra, draw: Draw) -> Loss:
        """The loss of a player over a batch. Runs with gradients for that player only."""
        ...
