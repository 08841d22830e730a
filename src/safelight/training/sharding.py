"""How the weights of a run lie over its processes: whole in each, or a share in each.

What learns is a list of plain float32 tensors either way: the optimizer, the averages and the guard
against bad steps do not know that theirs are shares. Checkpoints hold whole tensors, so a run may
go on with another number of processes, or with the other layout.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from safelight.errors import RequestError
from safelight.training.distributed import Group
from safelight.training.ema import swapped
from safelight.training.precision import Weights, learnable, weights_of
from safelight.training.settings import Settings


class Layout(Protocol):
    """The weights of one player over the processes."""

    weights: Weights
    factor: float  # what a loss must be multiplied by, so that gradients are sums over processes

    def sum_(self, gradients: Sequence[Tensor], figures: Sequence[Tensor]) -> None:
        """Sum over the processes, in place, what is not summed yet."""

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The norm of all gradients together, 0-dim."""

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The whole of what this process has a part of; `name` is that of the weight."""

    def part(self, name: str, whole: Tensor) -> Tensor:
        """This process's part of a tensor."""

    def holding(self, values: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """A context manager: inside, the network holds these values of its weights."""


def layout(module: nn.Module, settings: Settings, group: Group) -> Layout:
    """Lay out a module as the settings say. Raises RequestError for what cannot be sharded."""
    if settings.parallel == "ddp" or group.world == 1:
        return Whole(module, settings, group)
    if settings.optimizer != "adamw":
        raise RequestError(
            f"the optimizer {settings.optimizer} needs whole weights; with parallel fsdp use "
            "adamw, or use parallel ddp"
        )
    if settings.channels_last:
        raise RequestError("channels_last needs whole weights; with parallel fsdp leave it out")
    return Sharded(module, settings, group)


class Whole:
    """Every process holds all weights; gradients are summed."""

    factor = 1.0

    def __init__(self, module: nn.Module, settings: Settings, group: Group) -> None:
        self._module, self._group = module, group
        self.weights: Weights = weights_of(module, bf16=settings.precision == "bf16")

    def sum_(self, gradients: Sequence[Tensor], figures: Sequence[Tensor]) -> None:
        self._group.sum_([*gradients, *figures])

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        return torch.nn.utils.get_total_norm(list(gradients))

    def whole(self, name: str, part: Tensor) -> Tensor:
        return part

    def part(self, name: str, whole: Tensor) -> Tensor:
        return whole

    def holding(self, values: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        return swapped(self._module, values)


class Sharded:
    """Every process holds a share of each weight (FSDP2); gradients arrive summed and shared out.

    Zhao et al. 2023 (arXiv:2304.11277). Every block of the network is gathered when its turn comes.
    """

    def __init__(self, module: nn.Module, settings: Settings, group: Group) -> None:
        _shard(module, settings)
        self._group = group
        self.factor = float(group.world)  # FSDP takes the mean of gradients
        self.weights: Weights = SharedWeights(module)
        self._places = {
            name: _Place.of(parameter)
            for name, parameter in zip(self.weights.names, self.weights.parameters, strict=True)
        }

    def sum_(self, gradients: Sequence[Tensor], figures: Sequence[Tensor]) -> None:
        self._group.sum_(figures)

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        squares = torch.nn.utils.get_total_norm(list(gradients)).square()
        dist.all_reduce(squares)
        return squares.sqrt()

    def whole(self, name: str, part: Tensor) -> Tensor:
        return self._places[name].whole(part)

    def part(self, name: str, whole: Tensor) -> Tensor:
        return self._places[name].part(whole)

    @contextmanager
    def holding(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        masters = dict(zip(self.weights.names, self.weights.masters, strict=True))
        kept = {name: masters[name].detach().clone() for name in values}
        try:
            _fill(masters, values)
            yield
        finally:
            _fill(masters, kept)


@dataclass(frozen=True, slots=True)
class _Place:
    """Which share of a weight is here."""

    mesh: Any
    placements: Any
    shape: torch.Size
    stride: tuple[int, ...]

    @classmethod
    def of(cls, parameter: Any) -> "_Place":
        return cls(parameter.device_mesh, parameter.placements, parameter.shape, parameter.stride())

    def whole(self, part: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        shared = DTensor.from_local(
            part.detach(), self.mesh, self.placements, shape=self.shape, stride=self.stride
        )
        full: Tensor = shared.full_tensor()
        return full

    def part(self, whole: Tensor) -> Tensor:
        from torch.distributed.tensor import distribute_tensor

        # every process has read the same file: nothing need be sent
        local = distribute_tensor(whole, self.mesh, self.placements, src_data_rank=None)
        return local.to_local()


class SharedWeights:
    """The shares of this process, which are the masters; FSDP casts what it gathers."""

    def __init__(self, module: nn.Module) -> None:
        found = learnable(module)
        self.names = tuple(found)
        self.parameters = list(found.values())
        self.masters: list[Tensor] = [
            nn.Parameter(_local(parameter).detach()) for parameter in self.parameters
        ]

    def begin(self) -> None:
        for weight in (*self.parameters, *self.masters):
            weight.grad = None

    def gather(self) -> None:
        """Nothing to do: FSDP adds up, in float32."""

    def gradients(self) -> list[Tensor]:
        found: list[Tensor] = []
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            gradient = parameter.grad
            master.grad = torch.zeros_like(master) if gradient is None else _local(gradient)
            found.append(master.grad)
        return found

    def publish(self) -> None:
        """Nothing to do: the masters share the memory of the network's weights."""

    def release(self) -> None:
        self.begin()


def _shard(module: nn.Module, settings: Settings) -> None:
    """Shard the blocks of a network, and then what is left of it."""
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    methods = _methods(module)
    for parameter in module.parameters():
        parameter.data = parameter.data.float()
    bf16 = settings.precision == "bf16"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # the layers cast; times must stay float32
    )
    for part in [*_blocks(module), module]:
        fully_shard(part, mp_policy=policy, reshard_after_forward=True)
    for name in methods:
        register_fsdp_forward_method(module, name)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The entries of lists of modules that have weights, inner ones first."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    found = [entry for part in lists for entry in part if any(True for _ in entry.parameters())]
    return list(dict.fromkeys(reversed(found)))


def _methods(module: nn.Module) -> list[str]:
    """What a network offers beside `forward`, such as an autoencoder's `encode`."""
    own = set(dir(type(module))) - set(dir(nn.Module)) - {"forward"}
    public = sorted(name for name in own if not name.startswith("_"))
    return [name for name in public if callable(getattr(type(module), name, None))]


def _local(tensor: Any) -> Tensor:
    local: Tensor = tensor.to_local()
    return local


def _fill(places: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            places[name].copy_(value)
