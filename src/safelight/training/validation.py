"""The loss on held-out pictures, by noise level, always with the same noise.

A training loss is mostly the luck of its noise levels. Here everything is fixed: the examples,
their noise and their levels follow from the seed alone, so two figures differ only if the weights
do. The training's random numbers are neither used nor moved.

Shapes: M examples, B of them at once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from safelight.diffusion import loss as losses
from safelight.diffusion.denoiser import Network
from safelight.diffusion.draws import stratified
from safelight.errors import RequestError
from safelight.training.diffusion_task import DiffusionTask, LatentBatch
from safelight.training.draw import Draw
from safelight.training.task import Data

BINS = (-12.0, -8.0, -5.0, -3.0, -1.0, 1.0, 3.0, 5.0, 8.0)
"""Edges of eight bins of log-SNR: layout is decided on the left, fine detail on the right."""


@dataclass(frozen=True)
class Validation:
    """Held-out examples and how they are judged.

    indices: which examples of `data`; always in this order, `batch` of them at once.
    bins: ascending edges in log-SNR. In each bin every example is judged once.
    Raises RequestError for no examples, or edges that do not ascend.
    """

    data: Data[LatentBatch]
    indices: Sequence[int]
    batch: int = 64
    bins: tuple[float, ...] = BINS
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.indices) or self.batch < 1:
            raise RequestError("validation needs one or more examples, and batches of 1 or more.")
        if len(self.bins) < 2 or any(low >= high for low, high in pairwise(self.bins)):
            raise RequestError(f"bins are ascending edges in log-SNR; got {list(self.bins)}.")

    def __call__(self, task: DiffusionTask, network: Network | None = None) -> dict[str, float]:
        """The figures of a task's weights, or of another network, such as that of the average.

        `held_out/loss` is the expected training loss: levels by the task's own draw, and its
        weight. `held_out/snr_-5_-3` is the mean squared error on the prediction, levels even in
        log-SNR between these edges, within the process's table. Captions are never dropped.
        """
        with judging(task.learner if network is None else None):
            sums = sum(
                (self._sums(task, network or task.network, draw) for draw in self._draws()),
                torch.zeros(len(self.bins), dtype=torch.float64),
            )
        figures = (sums / len(self.indices)).tolist()
        return dict(zip(self._names(), figures, strict=True))

    def _names(self) -> list[str]:
        bins = [f"held_out/snr_{low:g}_{high:g}" for low, high in pairwise(self.bins)]
        return ["held_out/loss", *bins]

    def _draws(self) -> Iterator[Draw]:
        count = len(self.indices)
        for start in range(0, count, self.batch):
            yield Draw(self.seed, 0, count, start, min(self.batch, count - start))

    def _sums(self, task: DiffusionTask, network: Network, draw: Draw) -> Tensor:
        """The sum over a batch of the loss, and of the error in each bin: float64 on the CPU."""
        batch = self.data.batch(self.indices[draw.rows], draw)
        latents = batch.latents
        # Drawn on the CPU: the same on every device.
        noise = draw.normal("held-out noise", *latents.shape[1:], device="cpu").to(latents.device)
        condition = task.condition(batch)
        sums: list[Tensor] = []
        for number, sigma in enumerate((self._drawn(task, draw), *self._binned(task, draw))):
            weight = task.settings.weight if number == 0 else None
            at = losses.levels(task.process, sigma, weight, device=latents.device)
            output = network(losses.noisy_input(latents, noise, at), at.time, condition)
            wanted = losses.target(task.process, latents, noise, at)
            huber = task.settings.huber if number == 0 else None
            errors = losses.picture_errors(output, wanted, huber=huber, mask=batch.mask)
            sums.append((errors * at.weight).sum())
        return torch.stack(sums).cpu().double()

    def _drawn(self, task: DiffusionTask, draw: Draw) -> Tensor:
        return task.settings.draw(task.process, self._uniforms(draw, "loss"))

    def _binned(self, task: DiffusionTask, draw: Draw) -> Iterator[Tensor]:
        least, most = task.process.sigma_min, task.process.sigma_max
        for number, (low, high) in enumerate(pairwise(self.bins)):
            log_snr = low + (high - low) * self._uniforms(draw, f"bin {number}")
            yield (-log_snr / 2).exp().clamp(least, most)

    def _uniforms(self, draw: Draw, name: str) -> Tensor:
        places = torch.randperm(draw.total, generator=draw.generator(f"{name} places", "cpu"))
        uniforms = draw.uniform(f"{name} levels", device="cpu")
        return stratified(uniforms, places[draw.rows], draw.total)


def over_all(
    validations: Sequence[Validation], task: DiffusionTask, network: Network | None = None
) -> dict[str, float]:
    """The figures over the examples of all, each counting alike; empty for none."""
    figures: dict[str, float] = {}
    total = sum(len(each.indices) for each in validations)
    for each in validations:
        for name, value in each(task, network).items():
            figures[name] = figures.get(name, 0.0) + value * len(each.indices) / total
    return figures


@contextmanager
def judging(module: nn.Module | None) -> Iterator[None]:
    """Without gradients, and with the module in evaluation mode; its modes return afterwards.

    A compiled module runs uncompiled: other shapes and modes would be compiled anew, which costs
    more than they do.
    """
    modes = [] if module is None else [(part, part.training) for part in module.modules()]
    compiled = any(getattr(part, "_compiled_call_impl", None) is not None for part, _ in modes)
    try:
        if module is not None:
            module.eval()
        with torch.no_grad():
            if compiled:
                with torch.compiler.set_stance("force_eager"):
                    yield
            else:
                yield
    finally:
        for part, mode in modes:
            part.training = mode
