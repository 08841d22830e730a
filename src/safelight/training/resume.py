"""Going on with a run: from its newest whole checkpoint, and only if the numbers stay the same."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from safelight.errors import CheckpointError, FileError, RequestError
from safelight.printable import shown
from safelight.training import saving
from safelight.training.learner import Learner
from safelight.training.order import Order
from safelight.training.rate import share
from safelight.training.saving import State
from safelight.training.settings import FREE, LATER, SCHEDULED, Settings


def resumed(
    folder: Path,
    learners: Mapping[str, Learner],
    settings: Settings,
    order: Order,
    *,
    warned: Callable[[str], None],
) -> State | None:
    """Bring the learners to where the run in `folder` is; None if there is no checkpoint.

    A damaged checkpoint is set aside with a warning, and the one before is used. Raises
    RequestError naming each setting that differs and would change the numbers, and CheckpointError
    if the networks or the data are others.
    """
    for checkpoint in reversed(saving.checkpoints(folder)):
        try:
            state = saving.load_state(checkpoint)
            _check(state, settings, order, checkpoint)
            tensors = {name: _parts(checkpoint, name, settings) for name in learners}
        except FileError as error:
            warned(f"{error}; the checkpoint before it is used")
            saving.set_aside(checkpoint)
            continue
        for name, learner in learners.items():
            learner.restore(tensors[name], state.players[name])
        return state
    return None


def digest(order: Order, step: int) -> str:
    """What stands for the order of examples: those of the first step and of the next."""
    text = f"{list(order.indices(0))};{list(order.indices(step))}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _parts(checkpoint: Path, player: str, settings: Settings) -> saving.Tensors:
    parts = ["", "optimizer", *(kind.name for kind in settings.ema)]
    return {part: saving.load_tensors(checkpoint, player, part) for part in parts}


def _check(state: State, settings: Settings, order: Order, checkpoint: Path) -> None:
    where = shown(checkpoint)
    differing = _differing(state, settings)
    if differing:
        raise RequestError(
            f"{where} was made with other settings: {'; '.join(differing)}. Give the old ones to "
            "go on, or a new folder to begin anew"
        )
    if state.order != digest(order, state.step):
        raise CheckpointError(
            f"{where} was made with other data or another order of it: the batches differ. Give "
            "the same data to go on, or a new folder to begin anew"
        )


def _differing(state: State, settings: Settings) -> list[str]:
    old, new = state.settings, settings.plain()
    free = set(FREE) | (SCHEDULED if _same_rates(old, settings, state.step) else set())
    if settings.optimizer != "muon":
        free.add("channels_last")  # Muon remembers matrices in the order of memory
    return [
        f"{name} was {shown(old.get(name))} and is {shown(value)}"
        for name, value in new.items()
        if name not in free and old.get(name, LATER.get(name)) != value
    ]


def _same_rates(old: Mapping[str, object], settings: Settings, steps: int) -> bool:
    """Whether the steps done had the learning rates that these settings give them."""
    before = _Shape(old)
    return all(share(before, step) == share(settings, step) for step in range(steps))


class _Shape:
    """The schedule of settings that were read from a file."""

    def __init__(self, plain: Mapping[str, object]) -> None:
        self.steps = int(str(plain.get("steps")))
        self.warmup_steps = int(str(plain.get("warmup_steps")))
        self.decay_from = float(str(plain.get("decay_from")))
        self.schedule = str(plain.get("schedule"))
