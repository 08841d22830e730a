"""Random numbers that depend on what they are for, never on what was drawn before.

Every draw of a run is a function of the run's seed, a name and the number of the step. So a resumed
run needs no stored random state, a validation never moves the training's numbers, and a batch
spread over ranks or micro-batches sees what the same batch sees in one piece.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def number(seed: int, name: str, *numbers: int) -> int:
    """A whole number below 2**63 that depends on its arguments alone, spread evenly."""
    text = ":".join((name, str(seed), *map(str, numbers)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream(
    seed: int, name: str, *numbers: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator that depends on its arguments alone."""
    return torch.Generator(device).manual_seed(number(seed, name, *numbers))


@dataclass(frozen=True, slots=True)
class Draw:
    """The random numbers of one step, or of the rows [start, start + count) of its batch.

    total is the number of pictures of the whole step, over all ranks and micro-batches. Numbers are
    drawn for all of them and the own rows are taken, so row i is the same however it is divided.
    """

    seed: int
    step: int
    total: int
    start: int = 0
    count: int | None = None  # None: all that follow start
    device: torch.device | str = "cpu"

    @property
    def rows(self) -> slice:
        return slice(self.start, self.total if self.count is None else self.start + self.count)

    def generator(self, name: str, device: torch.device | str | None = None) -> torch.Generator:
        """The generator of one purpose in this step; the same for every part of the batch."""
        return stream(self.seed, name, self.step, device=self.device if device is None else device)

    def normal(self, name: str, *shape: int, device: torch.device | str | None = None) -> Tensor:
        """Unit normals (count, *shape), float32."""
        where = self.device if device is None else device
        generator = self.generator(name, where)
        return torch.randn(self.total, *shape, generator=generator, device=where)[self.rows]

    def uniform(self, name: str, *shape: int, device: torch.device | str | None = None) -> Tensor:
        """Numbers in [0, 1), (count, *shape), float32."""
        where = self.device if device is None else device
        generator = self.generator(name, where)
        return torch.rand(self.total, *shape, generator=generator, device=where)[self.rows]
