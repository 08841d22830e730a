"""What a job will need: weights, memory, arithmetic; counted on a few rows without learning."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import nn

from safelight.errors import NonFiniteError
from safelight.training.distributed import ALONE
from safelight.training.draw import Draw
from safelight.training.flops import flops_of_step
from safelight.training.learner import Learner, check_rates
from safelight.training.recipes.job import Job, seeded

_MOMENTS = {"adamw": 2.0, "muon": 1.5, "prodigy": 4.0, "adamw8bit": 0.5}  # float32 numbers a weight
ROWS = 8


@dataclass(frozen=True)
class Estimate:
    """weights: of each player. memory: bytes that stay taken. flop: of one step of all rows."""

    weights: dict[str, int]
    frozen: int
    memory: int
    resident: int
    flop: int
    losses: dict[str, float]


def estimate(job: Job, device: torch.device) -> Estimate:
    """What a job needs. One step of a few rows is computed, and nothing learns.

    Raises NonFiniteError if a loss is not finite at the start, and what the step raises.
    """
    players = job.task.players
    weights = {name: _count(module) for name, module in players.items()}
    settings = job.settings
    each = 4.0 + 4.0 + 4.0 * _MOMENTS[settings.optimizer] + 4.0 * len(settings.ema)
    if settings.precision == "bf16":
        each += 2.0 + 2.0  # the copies that compute, and their gradients
    frozen = sum(p.numel() * p.element_size() for m in job.frozen for p in m.parameters())
    learning = sum(weights.values())
    losses, flop = _stepped(job, device)
    return Estimate(
        weights, frozen, round(learning * each) + frozen + job.resident, job.resident, flop, losses
    )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _stepped(job: Job, device: torch.device) -> tuple[dict[str, float], int]:
    """The loss of each player and the arithmetic of a step, over the first rows of the order."""
    plain = replace(job.settings, precision="fp32", ema=(), parallel="ddp")
    indices = list(job.order.indices(0))[:ROWS]
    draw = Draw(plain.seed, 0, len(indices), 0, len(indices), device)
    batch = job.data.batch(indices, draw)
    losses = {}
    with torch.no_grad(), seeded(plain.seed, "a trial"):
        for name, module in job.task.players.items():
            module.train()
            losses[name] = float(job.task.loss(name, batch, draw).total)
    for name, loss in losses.items():
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise NonFiniteError(
                f"the loss of {name} is {loss} before anything was learned; look at the data and "
                "at the checkpoint"
            )
    learners = {n: Learner(n, m, plain, ALONE) for n, m in job.task.players.items()}
    try:
        check_rates(plain, learners)
        with seeded(plain.seed, "a trial"):
            flop = flops_of_step(job.task, job.data, learners, indices, draw)
    finally:
        for learner in learners.values():
            with suppress(AttributeError):
                learner.release()
    return losses, flop * job.settings.batch_size // len(indices)


def words(found: Estimate, steps: int) -> Sequence[str]:
    """The estimate, a line for each thing."""
    parts = ", ".join(f"{name} {count / 1e6:.2f} million" for name, count in found.weights.items())
    return (
        f"weights that learn: {parts}",
        f"memory: {_bytes(found.memory)} for weights, gradients, optimizer and averages"
        + (f", frozen networks ({_bytes(found.frozen)})" if found.frozen else "")
        + (f", data ({_bytes(found.resident)})" if found.resident else "")
        + "; activations of a batch come on top",
        f"arithmetic: {_flop(found.flop)} a step, {_flop(found.flop * steps)} in all",
        "a trial step works: "
        + ", ".join(f"loss of {name} {value:.4g}" for name, value in found.losses.items()),
    )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _flop(count: float) -> str:
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} EFLOP"
