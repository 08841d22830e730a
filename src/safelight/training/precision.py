"""The weights that learn: float32, whatever type the network computes in.

A network in bfloat16 cannot learn by itself: its weights have 8 significant bits, so updates below
1/256 of a weight are lost. So the network holds bfloat16 copies, gradients are added up in float32,
and the optimizer changes float32 weights ("masters") that are copied back after each step. There is
no autocast: weights are cast once a step, not once a use, and a type is what a tensor says it is.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Weights(Protocol):
    """The weights of one player that learn, for one run."""

    names: tuple[str, ...]
    parameters: list[nn.Parameter]  # the network's own, in the order of names
    masters: list[Tensor]  # float32, in the same order; what the optimizer changes

    def begin(self) -> None:
        """Forget the gradients of the step before."""

    def gather(self) -> None:
        """Take in the gradients that one backward pass left in the network."""

    def gradients(self) -> list[Tensor]:
        """The gradients summed over all that was gathered, as the masters' own `grad`, float32.

        A weight that took no part in the loss has a gradient of 0.
        """

    def publish(self) -> None:
        """Give the masters' values to the network."""

    def release(self) -> None:
        """Leave the network in float32, with the masters' values and without gradients."""


def learnable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a module that require gradients, each once."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def weights_of(module: nn.Module, *, bf16: bool) -> Weights:
    """Prepare a module to learn. Parameters that do not require gradients stay as they are."""
    return CopiedWeights(module) if bf16 else OwnWeights(module)


class OwnWeights:
    """The parameters of the module are the masters themselves."""

    def __init__(self, module: nn.Module) -> None:
        found = learnable(module)
        self.names = tuple(found)
        for weight in found.values():
            weight.data = weight.data.float()
        self.parameters = list(found.values())
        self.masters: list[Tensor] = list(found.values())

    def begin(self) -> None:
        _forget(self.masters)

    def gather(self) -> None:
        """Nothing to do: autograd adds up in the masters."""

    def gradients(self) -> list[Tensor]:
        for master in self.masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return _gradients(self.masters)

    def publish(self) -> None:
        """Nothing to do: the masters are the parameters."""

    def release(self) -> None:
        _forget(self.masters)


class CopiedWeights:
    """The parameters of the module are bfloat16 copies of the masters."""

    def __init__(self, module: nn.Module) -> None:
        found = learnable(module)
        self.names = tuple(found)
        self.parameters = list(found.values())
        self.masters: list[Tensor] = [
            nn.Parameter(weight.detach().to(torch.float32, copy=True)) for weight in found.values()
        ]
        for weight in self.parameters:
            weight.data = weight.data.bfloat16()
        self._sums = [torch.zeros_like(master) for master in self.masters]
        self._fresh = True

    def begin(self) -> None:
        _forget(self.parameters)
        self._fresh = True

    @torch.no_grad()
    def gather(self) -> None:
        places = [place for place, weight in enumerate(self.parameters) if weight.grad is not None]
        found = _gradients([self.parameters[place] for place in places])
        if self._fresh and len(found) == len(self._sums):
            _copy(self._sums, found)
        else:
            if self._fresh and self._sums:
                torch._foreach_zero_(self._sums)
            self._add(places, found)
        self._fresh = False
        _forget(self.parameters)

    def _add(self, places: list[int], found: list[Tensor]) -> None:
        # one by one: all at once would need their copies in float32 beside each other
        for place, gradient in zip(places, found, strict=True):
            self._sums[place].add_(gradient)

    def gradients(self) -> list[Tensor]:
        if self._fresh and self._sums:
            torch._foreach_zero_(self._sums)
        for master, total in zip(self.masters, self._sums, strict=True):
            master.grad = total
        return self._sums

    @torch.no_grad()
    def publish(self) -> None:
        _copy([weight.detach() for weight in self.parameters], self.masters)

    def release(self) -> None:
        _forget(self.parameters)
        for weight, master in zip(self.parameters, self.masters, strict=True):
            weight.data = master.data


def _gradients(weights: Sequence[Tensor]) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]


def _forget(weights: Sequence[Tensor]) -> None:
    for weight in weights:
        weight.grad = None


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(list(targets), list(sources))
