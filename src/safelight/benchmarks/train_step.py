"""Our training step as something that can be timed: a run of the trainer that waits between steps.

Latents and text states are at hand, for us as for peers, so that a step is the network, its loss,
and the optimizer. The numbers are those of Diffusers' examples.
"""

import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from safelight.adapters.targets import targets
from safelight.adapters.trainable import Size, trainable
from safelight.benchmarks.inputs import SIZE_NUMBERS
from safelight.benchmarks.task import Task, input_file
from safelight.diffusion.draws import UniformDraw
from safelight.model import Model
from safelight.models.backbone import Backbone
from safelight.training.diffusion_task import DiffusionSettings, DiffusionTask
from safelight.training.ema import Classic
from safelight.training.latent_pool import LatentPool
from safelight.training.loop import train
from safelight.training.settings import Settings
from safelight.training.taught_layers import PLAYER, TaughtLayers, taking_part
from safelight.training.text_states import FrozenText
from safelight.training.watch import Watch

RANK = 16  # of the LoRA
STEPS = 1_000_000  # more than anybody waits for


def example_settings(batch: int, precision: str, **changes: Any) -> Settings:
    """The trainer with the numbers of Diffusers' example; `changes` are settings by name."""
    given: dict[str, Any] = {
        "batch_size": batch,
        "steps": STEPS,
        "learning_rate": 1e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
        "warmup_steps": 500,
        "precision": precision,
        "log_every": 1,
        "save_every": 1e9,
    }
    return Settings(**{**given, **changes})


def example_average() -> tuple[Classic, ...]:
    """The example's average of the weights."""
    return (Classic(0.9999),)


def example_task(
    model: Model, text: FrozenText | None = None, layers: nn.Module | None = None
) -> DiffusionTask:
    """The example's loss: uniform times, no weights, no dropped captions. layers: a LoRA's."""
    how = DiffusionSettings(draw=UniformDraw(), caption_dropout=0.0)
    if layers is None:
        return DiffusionTask(model.network, model.process, text, how)
    return DiffusionTask(model.network, model.process, text, how, layers, PLAYER)


def pool_of(task: Task) -> LatentPool:
    """Latents and text states of as many examples as the inputs hold."""

    def read(name: str) -> Tensor | None:
        path = input_file(task.inputs, name)
        if not path.exists():
            return None
        return torch.from_numpy(np.load(path, allow_pickle=False)).to(task.device)

    latents, contexts = read("train_latents"), read("train_states")
    assert latents is not None and contexts is not None
    sizes = read("train_sizes")
    assert sizes is None or sizes.shape[1] == SIZE_NUMBERS
    dtype = torch.bfloat16 if task.precision == "bf16" else torch.float32
    return LatentPool(
        latents, contexts=contexts.to(dtype), pooled=read("train_pooled"), sizes=sizes
    )


def training(task: Task, model: Model) -> tuple[Callable[[], object], Callable[[object], object]]:
    """A step on demand; read, it gives how many weights learn, by tensor, in descending order.

    With `task.adapted` a LoRA of queries, keys, values and outputs learns, else the U-Net.
    """
    unet = model.network.unet
    model = Model(
        model.family, model.text, Backbone(unet), model.codec, model.process
    )  # without an engine, which cannot learn
    learner: nn.Module = unet.requires_grad_(task.adapted is False)
    layers, taught = None, ExitStack()
    if task.adapted:
        rng = torch.Generator().manual_seed(0)
        paths = targets(unet, ["attention"])
        deltas = {"unet": trainable(unet, "lora", paths, size=Size(RANK), generator=rng)}
        taught.enter_context(taking_part({"unet": unet}, deltas))
        learner = layers = TaughtLayers(deltas)
    runner = Steps(task, example_task(model, None, layers), taught)
    sizes = sorted((p.numel() for p in learner.parameters() if p.requires_grad), reverse=True)
    return runner.step, lambda _: np.asarray(sizes, np.float64)


@dataclass
class Steps(Watch):
    """A run of the trainer in a thread of its own, which takes a step whenever it is let.

    taught: what must stay entered as long as it learns.
    """

    task: Task
    learning: DiffusionTask
    taught: ExitStack

    def __post_init__(self) -> None:
        self._may, self._did = threading.Semaphore(0), threading.Semaphore(0)
        self._failed: list[BaseException] = []
        self._thread: threading.Thread | None = None

    def step(self) -> None:
        """One step. Raises what the run raised."""
        if self._thread is None:  # its first step needs no leave: it is the first that is logged
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        else:
            self._may.release()
        self._did.acquire()
        if self._failed:
            raise self._failed[0]

    def logged(self, record: Mapping[str, object]) -> None:
        self._did.release()
        self._may.acquire()

    def _run(self) -> None:
        settings = example_settings(self.task.batch, self.task.precision)
        torch.set_num_threads(self.task.threads)
        try:
            with tempfile.TemporaryDirectory() as folder:
                train(
                    self.learning,
                    pool_of(self.task),
                    settings,
                    Path(folder),
                    device=self.task.device,
                    watch=self,
                )
        except BaseException as error:
            self._failed.append(error)
            self._did.release()
