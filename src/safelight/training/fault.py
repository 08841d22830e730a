"""Where a step stops being finite: its passes once more, with every module looked at."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from safelight.engines.sentinel import finite, tensors_in


@dataclass(slots=True)
class Trace:
    """The first place that was not finite; None while there is none."""

    place: str | None = None
    sound: str = ""  # where the last finite gradient came back to, as passes go from end to start

    def note(self, place: str, value: object) -> None:
        """Look at a value, unless something was found before."""
        if self.place is None and not finite(value):
            self.place = place

    def back(self, name: str, gradient: Tensor) -> None:
        """Look at the gradient that comes back to the output of a module."""
        after = f" (to that of {self.sound} a finite one comes)" if self.sound else ""
        self.note(f"the gradient that comes back to the output of {name}{after}", gradient)
        if not self.sound.startswith(f"{name}."):  # the innermost of those with the same output
            self.sound = name


@contextmanager
def traced(players: Mapping[str, nn.Module]) -> Iterator[Trace]:
    """Inside, forward and backward passes through these networks are looked at.

    Modules finish before those that hold them, so the first one found is an innermost one. A
    gradient is looked at where it reaches the output of a module, coming from what follows it.
    Every look waits for the device.
    """
    trace = Trace()
    handles = [
        module.register_forward_hook(_look(trace, f"{player}.{path}".rstrip(".")), with_kwargs=True)
        for player, network in players.items()
        for path, module in network.named_modules()
    ]
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


Hook = Callable[[nn.Module, tuple[object, ...], dict[str, object], object], None]


def _look(trace: Trace, name: str) -> Hook:
    def look(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object
    ) -> None:
        trace.note(f"the input of {name}", (args, tuple(kwargs.values())))
        trace.note(f"the output of {name}", output)

        def back(gradient: Tensor) -> None:
            trace.back(name, gradient)

        for tensor in tensors_in(output):
            if tensor.requires_grad:
                tensor.register_hook(back)

    return look


@contextmanager
def buffers_kept(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Whatever passes do to the buffers of these networks inside, after it they are as before."""
    buffers = [buffer for module in modules.values() for buffer in module.buffers()]
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that is not finite; None if all are. Waits for the device."""
    return next((name for name, tensor in tensors.items() if not finite(tensor)), None)
