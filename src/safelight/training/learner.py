"""One player of a run: its network, the weights that learn, its optimizer and its averages."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor, nn

from safelight.errors import CheckpointError, RequestError
from safelight.printable import shown
from safelight.training.distributed import Group
from safelight.training.ema import Average
from safelight.training.fault import not_finite
from safelight.training.meter import FINITE, NORM, Meter
from safelight.training.optimizers import Scalars, driver
from safelight.training.settings import Settings, stands_for
from safelight.training.sharding import layout
from safelight.training.task import Loss


class Learner:
    """What one player needs to take its steps."""

    def __init__(self, name: str, module: nn.Module, settings: Settings, group: Group) -> None:
        self.name, self.module = name, module
        self._clip = settings.clip_norm
        self._layout = layout(module, settings, group)
        self.weights = self._layout.weights
        self._driver = driver(settings, name, module, self.named())
        self.averages = {k.name: Average(k, self.weights.masters) for k in settings.ema}
        self.meter = Meter(name)
        self._figures: dict[str, Tensor] = {}

    def named(self) -> dict[str, Tensor]:
        """The weights that learn, float32, by the names of the module."""
        return dict(zip(self.weights.names, self.weights.masters, strict=True))

    def begin(self) -> None:
        """Start a step with no gradient."""
        self.weights.begin()
        self._figures = {}

    def add(self, loss: Loss, share: float) -> None:
        """Take in the gradient of a part of the batch that is `share` of its rows."""
        total = loss.total.float()
        scale = share * self._layout.factor
        (total * scale if scale != 1.0 else total).backward()
        self.weights.gather()
        for name, value in {"loss": total, **loss.figures}.items():
            part = value.detach().to(total.device, torch.float32) * share
            self._figures[name] = self._figures[name] + part if name in self._figures else part

    @torch.no_grad()
    def update(self, step: int, learning_rate: float) -> Tensor:
        """Take the optimizer's step; one that is not finite changes no weight.

        Gives whether it was finite, a 0-dim bool. Nothing here waits for the device.
        """
        gradients, norm, finite = self._summed()
        if self._clip is not None:
            torch._foreach_mul_(gradients, (self._clip / (norm + 1e-6)).clamp(max=1.0))
        self._driver.step(learning_rate, finite)
        self.weights.publish()
        for average in self.averages.values():
            average.update(self.weights.masters)
        self.meter.keep(step + 1, {**self._figures, NORM: norm, FINITE: finite})
        return finite

    @torch.no_grad()
    def judged(self) -> tuple[bool, str | None]:
        """Whether the gradient taken in is finite, and which weight's is not; nothing is learned.

        The first over all processes, the second in this one. Waits for the device.
        """
        gradients = dict(zip(self.weights.names, self.weights.gradients(), strict=True))
        weight = not_finite(gradients)  # before those of other processes are in it
        finite = self._summed()[2]
        self.begin()
        return bool(finite), weight

    def _summed(self) -> tuple[list[Tensor], Tensor, Tensor]:
        """The gradients over all processes, their norm, and whether it and the loss are finite."""
        gradients = self.weights.gradients()
        self._layout.sum_(gradients, list(self._figures.values()))
        norm = self._layout.norm(gradients)
        return gradients, norm, norm.isfinite() & self._figures["loss"].isfinite()

    def buffers(self) -> dict[str, Tensor]:
        """The module's buffers that belong to its state."""
        known = dict(self.module.named_buffers())
        return {n: known[n] for n in self.module.state_dict() if n in known}

    def averaged(self, kind: str) -> dict[str, Tensor]:
        """An average's part on this process, by name. Raises KeyError for an unknown kind."""
        return dict(zip(self.weights.names, self.averages[kind].values, strict=True))

    def average(self, kind: str) -> dict[str, Tensor]:
        """The whole weights of an average, and the module's buffers. Every process must ask."""
        return {**self._whole(self.averaged(kind)), **self.buffers()}

    def own(self) -> dict[str, Tensor]:
        """The whole weights that learn, and the module's buffers. Every process must ask."""
        return {**self._whole(self.named()), **self.buffers()}

    def holding(self, kind: str) -> AbstractContextManager[None]:
        """Inside, the network holds its average of this kind; after, its own weights."""
        found: AbstractContextManager[None] = self._layout.holding(self.averaged(kind))
        return found

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """All that must be saved, by file: "", "optimizer" and the name of each average.

        Whole tensors; every process must ask.
        """
        averages = {kind: self.average(kind) for kind in self.averages}
        shapes = {name: weight.shape for name, weight in self.named().items()}
        memory = _each(self._layout.whole, shapes, self._driver.tensors())
        return {"": self.own(), "optimizer": memory, **averages}

    def _whole(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._layout.whole(name, part) for name, part in parts.items()}

    def scalars(self) -> Scalars:
        """What must be saved beside the tensors."""
        updates = {kind: average.updates for kind, average in self.averages.items()}
        return {
            "optimizer": self._driver.scalars(),
            "updates": updates,
            "sums": self.meter.scalars(),
        }

    @torch.no_grad()
    def restore(
        self, tensors: Mapping[str, Mapping[str, Tensor]], scalars: Mapping[str, object]
    ) -> None:
        """Become what `tensors` and `scalars` of another run said. Raises CheckpointError."""
        _check(self._shapes(), tensors[""], self.name)
        updates, optimizer = scalars.get("updates"), scalars.get("optimizer")
        if not isinstance(updates, dict) or not isinstance(optimizer, dict):
            raise CheckpointError(f"the checkpoint says nothing of {self.name}'s optimizer")
        self._fill(self.named(), tensors[""])
        for name, buffer in self.buffers().items():
            buffer.copy_(tensors[""][name])
        for kind, average in self.averages.items():
            _check(self._shapes(), tensors[kind], f"{self.name}'s average {kind}")
            self._fill(self.averaged(kind), tensors[kind])
            average.updates = int(updates[kind])
        memory = _each(self._layout.part, self._shapes(), tensors["optimizer"])
        self._driver.restore(memory, optimizer)
        sums = scalars.get("sums")
        self.meter.restore(sums if isinstance(sums, dict) else {})
        self.weights.publish()

    def _shapes(self) -> dict[str, torch.Size]:
        """The whole shapes of the weights that learn and of the buffers."""
        own = zip(self.weights.names, (p.shape for p in self.weights.parameters), strict=True)
        return {**dict(own), **{name: buffer.shape for name, buffer in self.buffers().items()}}

    def _fill(self, places: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
        for name, place in places.items():
            place.copy_(self._layout.part(name, saved[name]))

    def release(self) -> None:
        """Leave the module in float32, with the trained weights, and able to learn."""
        self.weights.release()
        for parameter in self.weights.parameters:
            parameter.requires_grad_(True)


def check_rates(settings: Settings, learners: Mapping[str, Learner]) -> None:
    """Raise RequestError for a rate whose name stands for no weight that learns."""
    names = [name for learner in learners.values() for name in learner.weights.names]
    for rate in settings.rates:
        if not any(stands_for(rate, name) for name in names):
            some = ", ".join(names[:2])
            raise RequestError(
                f"rates.{shown(rate, 80)} stands for nothing that learns; name a weight or the "
                f"module it is in, such as {shown(some, 160)}, or a pattern with stars"
            )


@contextmanager
def averages_in(learners: Mapping[str, Learner], kind: str) -> Iterator[None]:
    """Inside, every player's network holds its average of this kind."""
    with ExitStack() as stack:
        for learner in learners.values():
            stack.enter_context(learner.holding(kind))
        yield


def _each(
    change: Callable[[str, Tensor], Tensor],
    shapes: Mapping[str, torch.Size],
    memory: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """What an optimizer remembers, "WEIGHT/KEY", changed where it is shaped as its weight."""
    names = {path: path.rpartition("/")[0] for path in memory}
    return {
        path: change(names[path], value) if value.shape == shapes.get(names[path]) else value
        for path, value in memory.items()
    }


def _check(shapes: Mapping[str, torch.Size], saved: Mapping[str, Tensor], what: str) -> None:
    """Raise CheckpointError unless the saved tensors are these in names and shapes."""
    lost, surplus = sorted(set(shapes) - set(saved)), sorted(set(saved) - set(shapes))
    if lost or surplus:
        raise CheckpointError(
            f"the checkpoint of {what} does not fit its network: missing "
            f"{shown(', '.join(lost) or 'nothing')}; "
            f"surplus {shown(', '.join(surplus) or 'nothing')}"
        )
    for name, shape in shapes.items():
        if shape != saved[name].shape:
            raise CheckpointError(
                f"the checkpoint of {what} has {shown(name)} of shape {list(saved[name].shape)}; "
                f"the network has {list(shape)}"
            )
