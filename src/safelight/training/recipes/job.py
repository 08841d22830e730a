"""What a recipe makes of a config: everything that the loop is given, and what is done at the end.

A recipe is a function from a config and a workshop to a job. It reads and checks data and weights,
and says what it skipped; it does not train.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from safelight.training.draw import number
from safelight.training.order import Order
from safelight.training.settings import Settings
from safelight.training.task import Data, Task
from safelight.training.watch import Moment

Weights = Mapping[str, Mapping[str, Tensor]]  # by player
Count = Callable[[int], None]  # is told how many are done
TRIAL = 32  # pictures that a trial prepares


@contextmanager
def _uncounted(text: str, total: int) -> Iterator[Count]:
    yield lambda done: None


def _silent(text: str) -> None:
    pass


@dataclass(frozen=True)
class Workshop:
    """Where a job is made: its device and folder, and who is told.

    counted(text, total) is a context manager that gives a function to be told how many are done.
    trial: only a few pictures are prepared and nothing is written, for a check of the config.
    stack: what is closed when the job is done.
    """

    device: torch.device
    folder: Path
    say: Callable[[str], None] = _silent
    warn: Callable[[str], None] = _silent
    counted: Callable[[str, int], AbstractContextManager[Count]] = _uncounted
    trial: bool = False
    stack: ExitStack = field(default_factory=ExitStack)

    def scratch(self) -> Path:
        """A new folder that is gone when the workshop closes."""
        return Path(self.stack.enter_context(TemporaryDirectory(prefix="safelight-")))


def sees_nothing(moment: Moment) -> Mapping[str, float]:
    """No figures."""
    return {}


@dataclass(frozen=True)
class Job:
    """A run ready to start.

    look: figures and previews, asked by the loop whenever it validates.
    write: makes the result of these weights, at a path that is new; gives what it wrote.
    facts: what a person should know before it starts. frozen: networks that take part without
    learning. resident: bytes of data on the device. identity: what must be the same for a run to
    go on, besides its settings. workshop: kept, where the job works only as long as it is open.
    """

    task: Task[Any]
    data: Data[Any]
    order: Order
    settings: Settings
    write: Callable[[Weights, Path], list[Path]]
    exported: tuple[str, ...]  # players whose weights `write` wants
    look: Callable[[Moment], Mapping[str, float]] = sees_nothing
    facts: tuple[str, ...] = ()
    frozen: tuple[nn.Module, ...] = ()
    resident: int = 0
    identity: Mapping[str, str] = field(default_factory=dict)
    workshop: Workshop | None = None


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Inside, networks are built with weights that depend on the seed and the name alone."""
    with torch.random.fork_rng([]):
        torch.manual_seed(number(seed, f"weights of {name}"))
        yield


def size_of(*tensors: Tensor | None) -> int:
    """Bytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def judged_weights(moment: Moment) -> AbstractContextManager[None]:
    """Inside, the networks hold their first average, if the run keeps one."""
    return moment.averaged(moment.kinds[0]) if moment.kinds else nullcontext()
