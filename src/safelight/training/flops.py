"""How many floating-point operations a step takes, counted on a few rows before the run."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from safelight.models.cpu_product import READY
from safelight.training.batches import B
from safelight.training.draw import Draw
from safelight.training.learner import Learner
from safelight.training.task import Data, Task

ROWS = 8


def _of_product(x: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    return 2 * math.prod(x) * weight[0]


# What the counter of PyTorch does not know: see `safelight.models.cpu_product`.
PRODUCTS = {torch.ops.mkldnn._linear_pointwise: _of_product} if READY else {}


def flops_of_step(
    task: Task[B],
    data: Data[B],
    learners: Mapping[str, Learner],
    indices: Sequence[int],
    draw: Draw,
) -> int:
    """FLOP of one step over all its rows, forward and backward, 2 a multiply-add.

    Counted on the first rows and scaled, so what grows faster than the batch is counted short.
    Nothing learns: gradients are dropped and buffers put back. Call it before compiling.
    """
    rows = min(ROWS, len(indices))
    part = Draw(draw.seed, draw.step, draw.total, 0, rows, draw.device)
    batch = data.batch(indices[:rows], part)
    buffers = [buffer for learner in learners.values() for buffer in learner.module.buffers()]
    kept = [buffer.clone() for buffer in buffers]
    with FlopCounterMode(display=False, custom_mapping=PRODUCTS) as counter:
        for name in learners:
            if task.plays(name, draw.step):
                task.loss(name, batch, part).total.backward()
            for other in learners.values():
                other.weights.begin()
    with torch.no_grad():
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)
    return int(counter.get_total_flops()) * len(indices) // rows
