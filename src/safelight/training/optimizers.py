"""Optimizers by name, driven by the loop: it says the learning rate and whether the step counts."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from safelight.errors import CheckpointError, RequestError
from safelight.printable import shown
from safelight.training.settings import Settings

RATE = "rate"  # of a group: the factor on its learning rate
# Where PyTorch has one kernel for all weights, which can leave a step out without asking the host.
FUSED = frozenset({"cpu", "cuda", "mps", "xpu"})

Scalars = dict[str, object]


class Driver(Protocol):
    """The optimizer of one player."""

    def step(self, learning_rate: float, finite: Tensor) -> None:
        """Update the weights from their gradients, unless `finite` (a 0-dim bool) is false."""

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers: names "WEIGHT/KEY" to tensors on their device."""

    def scalars(self) -> Scalars:
        """What it remembers beside the tensors, as JSON can hold it."""

    def restore(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, object]) -> None:
        """Go on from what another run remembered. Raises CheckpointError if it does not fit."""


def driver(
    settings: Settings, player: str, module: nn.Module, named: Mapping[str, Tensor]
) -> Driver:
    """The optimizer that the settings name, for these float32 weights of a module.

    Weight decay spares embeddings and weights of one dimension. Raises RequestError if a library
    that the optimizer needs is missing.
    """
    if not named:
        raise RequestError(f"the player {player} has no weights that learn; unfreeze some")
    spared = _spared(module, named)
    decay = settings.weight_decay_of(player)
    rates = {name: settings.rate_of(name) for name in named}
    groups = _groups(named, spared, rates, decay)
    common: dict[str, Any] = {"betas": settings.betas_of(player), "eps": settings.eps}
    device = next(iter(named.values())).device.type
    match settings.optimizer:
        case "adamw":
            return Guarded(AdamW(groups, **common, **_speed(device)), named)
        case "muon":
            return WithMuon(named, spared, decay, {**common, **_speed(device)}, rates)
        case "prodigy":
            _check_rates(rates)
            return Asked(_prodigy(groups, common), named)
        case "adamw8bit":
            return Asked(_adamw8bit(groups, common), named)


def _groups(
    named: Mapping[str, Tensor],
    spared: frozenset[str],
    rates: Mapping[str, float],
    decay: float,
) -> list[dict[str, Any]]:
    """The weights by whether they decay and by the factor on their learning rate."""
    found: dict[tuple[bool, float], list[Tensor]] = {}
    for without in (False, True):
        for name, weight in named.items():
            if (name in spared) == without:
                found.setdefault((without, rates[name]), []).append(weight)
    return [
        {"params": weights, "weight_decay": 0.0 if without else decay, RATE: rate}
        for (without, rate), weights in found.items()
    ]


def _speed(device: str) -> dict[str, Any]:
    return {"fused": True} if device in FUSED else {"foreach": True}


def _spared(module: nn.Module, named: Mapping[str, Tensor]) -> frozenset[str]:
    """The weights that decay does not touch: norms, biases and other vectors, and embeddings."""
    tables = {
        f"{path}.weight" if path else "weight"
        for path, part in module.named_modules()
        if isinstance(part, nn.Embedding)
    }
    return frozenset(name for name, weight in named.items() if weight.ndim < 2 or name in tables)


def _prodigy(groups: list[dict[str, Any]], common: dict[str, Any]) -> Optimizer:
    """Finds its own step size: a learning rate of 1 is usual. Mishchenko and Defazio 2023."""
    try:
        from prodigyopt import Prodigy
    except ImportError:
        raise _missing("prodigy", "prodigyopt") from None
    found: Optimizer = Prodigy(groups, lr=1.0, **common)
    return found


def _adamw8bit(groups: list[dict[str, Any]], common: dict[str, Any]) -> Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise _missing("adamw8bit", "bitsandbytes") from None
    found: Optimizer = AdamW8bit(groups, lr=0.0, **common)
    return found


def _check_rates(rates: Mapping[str, float]) -> None:
    others = sorted({rate for rate in rates.values() if rate not in (0.0, 1.0)})
    if others:
        raise RequestError(
            "the optimizer prodigy finds one step size for all weights, so rates must be 0 or 1; "
            f"got {others[0]:g}"
        )


def _missing(name: str, package: str) -> RequestError:
    return RequestError(
        f"the optimizer {name} needs the package {package}: pip install 'safelight[optimizers]'"
    )


class Asked:
    """Any optimizer. It asks the device whether the step counts, which waits for the gradients."""

    def __init__(self, optimizer: Optimizer, named: Mapping[str, Tensor]) -> None:
        self._optimizer, self._named = optimizer, named

    def step(self, learning_rate: float, finite: Tensor) -> None:
        if bool(finite):
            self._update(learning_rate)

    def _update(self, learning_rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group[RATE]
        self._optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}/{key}": value
            for name, weight in self._named.items()
            for key, value in self._optimizer.state.get(weight, {}).items()
            if isinstance(value, Tensor)
        }

    def scalars(self) -> Scalars:
        given = self._optimizer.defaults
        groups = [
            {
                key: value
                for key, value in group.items()
                if _is_plain(value) and key not in FIXED and value != given.get(key)
            }
            for group in self._optimizer.param_groups
        ]
        state = {
            f"{name}/{key}": value
            for name, weight in self._named.items()
            for key, value in self._optimizer.state.get(weight, {}).items()
            if _is_plain(value)
        }
        return {"groups": groups, "state": state}

    def restore(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, object]) -> None:
        groups, state = scalars.get("groups"), scalars.get("state")
        own = self._optimizer.state_dict()
        if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
            raise CheckpointError(
                "the optimizer's groups in the checkpoint are not those of the run"
            )
        for group, saved in zip(own["param_groups"], groups, strict=True):
            group.update({key: value for key, value in saved.items() if key not in FIXED})
        own["state"] = self._numbered({**(state if isinstance(state, dict) else {}), **tensors})
        self._optimizer.load_state_dict(own)

    def _numbered(self, saved: Mapping[str, object]) -> dict[int, dict[str, object]]:
        """The state under the numbers that PyTorch gives to the weights of all groups in a row."""
        numbers = {
            weight: number
            for number, weight in enumerate(
                weight for group in self._optimizer.param_groups for weight in group["params"]
            )
        }
        found: dict[int, dict[str, object]] = {}
        for path, value in saved.items():
            name, _, key = path.rpartition("/")
            weight = self._named.get(name)
            if weight is None:
                raise CheckpointError(
                    f"the optimizer's state names an unknown weight {shown(name)}"
                )
            if isinstance(value, Tensor) and value.shape == weight.shape:
                # kernels want the state in the order of the weight's memory, such as channels last
                value = torch.empty_like(weight, dtype=value.dtype).copy_(value).detach()
            elif isinstance(value, Tensor):
                value = value.clone()
            found.setdefault(numbers[weight], {})[key] = value
        return found


# What the settings say anew in each run.
FIXED = frozenset(
    {"params", "lr", "initial_lr", "weight_decay", "betas", "eps", "fused", "foreach"}
    | {"capturable", "differentiable", RATE}
)


class Guarded(Asked):
    """AdamW, whose kernels leave a step out on the device, without asking the host."""

    def step(self, learning_rate: float, finite: Tensor) -> None:
        if not self._optimizer.defaults["fused"]:
            return super().step(learning_rate, finite)
        # the name by which PyTorch's gradient scalers tell a fused optimizer the same thing
        self._optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self._update(learning_rate)
        return None


class WithMuon:
    """Muon for the matrices, AdamW for vectors and embeddings. Jordan et al. 2024.

    A convolution is a matrix from all it sees of the input to its outputs. Steps are scaled to the
    size of AdamW's, so both take the same learning rate. Weights that are frozen take no part.
    """

    def __init__(
        self,
        named: Mapping[str, Tensor],
        spared: frozenset[str],
        decay: float,
        common: dict[str, Any],
        rates: Mapping[str, float] | None = None,
    ) -> None:
        rates = dict.fromkeys(named, 1.0) if rates is None else rates
        self._named = {name: weight for name, weight in named.items() if name not in spared}
        self._matrices = {
            name: nn.Parameter(_matrix(weight.detach())) for name, weight in self._named.items()
        }
        rest = {name: weight for name, weight in named.items() if name in spared}
        self._parts: list[Asked] = []
        if self._matrices:
            groups = _groups(self._matrices, frozenset(), rates, decay)
            muon = Muon(groups, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            self._parts.append(Asked(muon, self._matrices))
        if rest:
            adamw = AdamW(_groups(rest, spared, rates, 0.0), **common)
            self._parts.append(Guarded(adamw, rest))

    def step(self, learning_rate: float, finite: Tensor) -> None:
        for name, matrix in self._matrices.items():
            gradient = self._named[name].grad
            matrix.grad = None if gradient is None else _matrix(gradient)
        for part in self._parts:
            part.step(learning_rate, finite)

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for part in self._parts for name, value in part.tensors().items()}

    def scalars(self) -> Scalars:
        return {"parts": [part.scalars() for part in self._parts]}

    def restore(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, object]) -> None:
        parts = scalars.get("parts")
        if not isinstance(parts, list) or len(parts) != len(self._parts):
            raise CheckpointError(
                "the optimizer's parts in the checkpoint are not those of the run"
            )
        for part, saved in zip(self._parts, parts, strict=True):
            owned = part._named
            part.restore(
                {path: v for path, v in tensors.items() if path.rpartition("/")[0] in owned}, saved
            )


def _matrix(weight: Tensor) -> Tensor:
    """A weight (out, ...) as a matrix over the same memory.

    Memory in channels-last order gives its columns in another order; Muon's result is the same but
    for that order.
    """
    if weight.ndim == 4 and not weight.is_contiguous():
        weight = weight.permute(0, 2, 3, 1)
    return weight.view(weight.shape[0], -1)


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(inner) for inner in value)
    return value is None or isinstance(value, (bool, int, float, str))
