"""What a run tells to those who look on, and what it asks them; and what it gives at its end."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from safelight.printable import shown
from safelight.training.journal import Record


@dataclass(frozen=True, slots=True)
class Moment:
    """A run between two steps, for validation and previews.

    averaged(kind) is a context manager: inside, the networks hold their averages of that kind.
    """

    step: int  # steps done
    folder: Path
    device: torch.device
    players: Mapping[str, nn.Module]
    kinds: tuple[str, ...]  # the names of the averages, such as "power:0.05"
    first: bool  # whether this process writes files for all
    averaged: Callable[[str], AbstractContextManager[None]]


class Watch:
    """Looks on in silence; override what you want to hear."""

    def logged(self, record: Record) -> None:
        """A line was written to the log."""

    def warned(self, text: str) -> None:
        """Something went wrong that the run survives."""

    def saved(self, checkpoint: Path) -> None:
        """A checkpoint was written."""

    def validate(self, moment: Moment) -> Mapping[str, float]:
        """Figures for the log, asked every `validate_every` steps and at the end.

        Called in evaluation mode without gradients; whatever random numbers it draws, the run
        goes on as if it had not been called. With several processes each is asked.
        """
        return {}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    weights holds each player's trained weights and buffers, and averages the same under each kind
    of average; float32, on the device of the run. The modules themselves hold the former.
    """

    step: int  # steps done
    steps: int  # of the whole run
    reason: Literal["finished", "deadline", "interrupted"]
    checkpoint: Path | None
    figures: Mapping[str, float]  # of the last line of the log
    seconds: float  # of training, over all parts of the run
    skipped: int  # steps that changed nothing because they were not finite
    weights: Mapping[str, Mapping[str, Tensor]]
    averages: Mapping[str, Mapping[str, Mapping[str, Tensor]]]  # by player, then by kind

    def __str__(self) -> str:
        where = shown(self.checkpoint) if self.checkpoint else "nowhere"
        if self.reason == "finished":
            return f"finished: {self.step} steps in {self.seconds:.0f} s, saved in {where}"
        return (
            f"{self.reason} after {self.step} of {self.steps} steps, saved in {where}; train into "
            "the same folder again to go on"
        )
