"""The training loop: one for every recipe.

A step is a pure function of its number: which examples, which random numbers and which learning
rate follow from it. So a resumed run needs the weights and the number, and is equal to the unbroken
one to the last bit on the same machine.
"""

from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from safelight.errors import RequestError
from safelight.printable import shown
from safelight.training import saving
from safelight.training.batches import B
from safelight.training.distributed import Group, current
from safelight.training.learner import Learner, check_rates
from safelight.training.order import Flat, Order
from safelight.training.resume import resumed
from safelight.training.running import Run
from safelight.training.settings import Settings
from safelight.training.surroundings import own_random_state, switches
from safelight.training.task import Data, Task
from safelight.training.watch import Outcome, Watch


def train(
    task: Task[B],
    data: Data[B],
    settings: Settings,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    order: Order | None = None,
    watch: Watch | None = None,
    until: float | None = None,
    resume: bool = True,
    group: Group | None = None,
) -> Outcome:
    """Train the players of a task on data, and go on with the run in `folder` if there is one.

    order is a shuffled pass over all examples unless another is given. until is a time of
    `time.monotonic` by which the run saves and ends; Ctrl-C and SIGTERM do the same at once. The
    networks must be on the device; they are left there in float32 with the trained weights.
    Every process of a distributed run calls this alike; the first writes.

    Raises RequestError if the settings do not fit the task or the run in the folder, or if there is
    one and resume is false; NonFiniteError if a step is not finite and settings say to stop, or if
    50 in a row are not, what was learned before being saved; OutputError if the disk refuses and
    settings say to stop, or at the end.
    """
    device, group, watch = torch.device(device), group or current(), watch or Watch()
    order = order or Flat(len(data), settings.batch_size, settings.seed)
    if not resume and saving.checkpoints(folder):
        raise RequestError(f"{shown(folder)} holds a run already; resume it, or give a new folder")
    with ExitStack() as stack:
        stack.enter_context(own_random_state(device))
        stack.enter_context(switches(settings, device))
        learners: dict[str, Learner] = {}
        for name, module in task.players.items():
            learners[name] = Learner(name, _laid_out(module, settings), settings, group)
            stack.callback(learners[name].release)
        check_rates(settings, learners)
        if group.first:
            saving.clear_halves(folder)
        group.barrier()
        state = resumed(folder, learners, settings, order, warned=watch.warned)
        group.barrier()  # a damaged checkpoint is set aside by the first to see it
        run = Run(task, data, settings, folder, device, order, watch, group, learners)
        return run.go(stack, state, until)


def _laid_out(module: nn.Module, settings: Settings) -> nn.Module:
    """The module with its weights in the order of memory that the settings ask for."""
    for parameter in module.parameters() if settings.channels_last else ():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module
