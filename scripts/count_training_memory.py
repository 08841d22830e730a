#!/usr/bin/env python3
"""How much memory a preset of `safelight teach` needs on a GPU, counted without one.

    python scripts/count_training_memory.py
    python scripts/count_training_memory.py --family sdxl --size 1024

A training step is gone through with tensors that have shapes and types, but no numbers (PyTorch's
fake tensors); counted are the bytes of all that are alive at once, each rounded up as PyTorch's
allocator for GPUs does. The kernels are those of a CPU, which keep for the backward pass what those
of a GPU keep. The model lies there whole: U-Net, text towers, autoencoder. Not counted
is what libraries take beside tensors: the CUDA context, workspaces of kernels, memory that the
allocator keeps but does not use.
"""

import argparse
import weakref
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from safelight.adapters.targets import targets
from safelight.adapters.trainable import Size, trainable
from safelight.benchmarks.geometry import weightless
from safelight.benchmarks.train_step import example_settings, example_task
from safelight.condition import Condition
from safelight.diffusion import loss as losses
from safelight.errors import RequestError
from safelight.families import FAMILIES, Family
from safelight.models.backbone import Backbone
from safelight.training.config.lessons import PRESETS, Base, Preset, fitting
from safelight.training.diffusion_task import PLAYER, DiffusionTask
from safelight.training.distributed import Group
from safelight.training.learner import Learner
from safelight.training.task import Loss
from safelight.training.taught_layers import TaughtLayers, taking_part

GB = 1e9
BLOCK = 512  # bytes: what PyTorch's allocator gives out is a multiple


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--family", choices=("sd15", "sd21-base", "sdxl"), default="sd15")
    parser.add_argument("--size", type=int, default=512, help="pixels")
    parser.add_argument("--rank", type=int, default=16)
    given = parser.parse_args()
    family = FAMILIES[given.family]
    weights = sum(p.numel() for p in weightless(family).network.unet.parameters())
    base = Base(given.family, family.label, given.size, 64, weights, len(family.text.roles))
    for name in PRESETS:
        for kind in ("lora", "full"):
            try:
                preset = fitting(name, kind, base)
            except RequestError as error:
                print(f"{name:5s} {kind:5s} {error}", flush=True)
                continue
            told = counted(family, preset, kind, given.size, given.rank)
            print(f"{name:5s} {kind:5s} {told / GB:6.2f} GB", flush=True)
    return 0


def counted(family: Family, preset: Preset, kind: str, size: int, rank: int) -> int:
    """The most bytes alive during two steps of a preset; the second has the optimizer's state."""
    settings = example_settings(preset.batch, preset.precision)
    half = torch.bfloat16 if preset.precision == "bf16" else torch.float32
    model = weightless(family)
    unet = model.network.unet.requires_grad_(kind == "full")
    beside = [cast("nn.Module", model.codec.autoencoder), *model.text.encoders]
    with ExitStack() as stack:
        layers = None if kind == "full" else _lora(unet, rank, stack)
        network = replace(model, network=Backbone(unet, preset.checkpointing))
        task = example_task(network, None, layers)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        for module in (*beside, unet):
            _lie(module, half)
        alive = stack.enter_context(Alive())
        alive.note(*(weight for module in (*beside, unet) for weight in module.parameters()))
        learner = Learner(PLAYER, task.learner, settings, Group())
        for step in range(2):
            _step(learner, task, family, preset, size, step)
        return int(alive.most)


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that are alive; what shares memory counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        made: object = func(*args, **(kwargs or {}))
        self.note(*(one for one in tree_leaves(made) if isinstance(one, torch.Tensor)))
        return made

    def note(self, *tensors: torch.Tensor) -> None:
        """Count the memory of these, as long as it is held."""
        for tensor in tensors:
            memory = tensor.untyped_storage()
            if memory in self._known:
                continue
            taken = -(-memory.nbytes() // BLOCK) * BLOCK
            self._known[memory] = taken
            weakref.finalize(memory, self._freed, taken)
            self.now += taken
            self.most = max(self.most, self.now)

    def _freed(self, taken: int) -> None:
        self.now -= taken


def _lora(unet: nn.Module, rank: int, stack: ExitStack) -> TaughtLayers:
    """Adapters of queries, keys, values and outputs, put in until the stack is left."""
    deltas = {"unet": trainable(unet, "lora", targets(unet, ["attention"]), size=Size(rank))}
    stack.enter_context(taking_part({"unet": unet}, deltas))
    return TaughtLayers(deltas)


def _lie(module: nn.Module, frozen: torch.dtype) -> None:
    """Give a module weights without numbers; those that learn in float32."""
    for inner in module.modules():
        for name, weight in inner.named_parameters(recurse=False):
            dtype = torch.float32 if weight.requires_grad else frozen
            body = torch.empty(weight.shape, dtype=dtype)
            setattr(inner, name, nn.Parameter(body, requires_grad=weight.requires_grad))


def _step(
    learner: Learner,
    task: DiffusionTask,
    family: Family,
    preset: Preset,
    size: int,
    step: int,
) -> None:
    shape = family.codec.channels, size // family.codec.factor, size // family.codec.factor
    config = family.backbone
    half = next(learner.module.parameters()).dtype
    learner.begin()
    for _ in range(preset.batch // preset.micro):
        latents = torch.zeros(preset.micro, *shape)
        noise = torch.zeros_like(latents)
        context = torch.zeros(preset.micro, 77, config.context_width, dtype=half)
        width = config.vector_width
        vector = None if width is None else torch.zeros(preset.micro, width)
        at = losses.Levels(*(torch.ones(preset.micro) for _ in fields(losses.Levels)))
        output, wanted = task.asked(latents, noise, at, Condition(context, vector))
        total = losses.diffusion_loss(output, wanted, at.weight)
        learner.add(Loss(total, {"mse": total.detach()}), preset.micro / preset.batch)
    learner.update(step, 1e-4)


if __name__ == "__main__":
    raise SystemExit(main())
