"""No black picture: NaN and infinity are caught where they arise, named, and retried in float32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from safelight.errors import NonFiniteError
from safelight.model import Placement

Result = TypeVar("Result")


@dataclass(frozen=True)
class Incident:
    """One non-finite value that float32 cured: which part, where in it, and at which step."""

    part: str  # "U-Net", "VAE decoder", "text encoder 1", ...
    block: str  # module path of the first module whose output was not finite
    dtype: str  # the type in which it arose
    step: int | None  # sampling step, from 1; None outside the sampling loop
    engine: str | None = None  # the engine that made it, if another than the modules themselves

    def __str__(self) -> str:
        when = "" if self.step is None else f" at step {self.step}"
        if self.engine is not None:
            return (
                f"engine {self.engine} made NaN or infinity in the {self.part}{when}; "
                "that part was run again without it"
            )
        return (
            f"{self.part} made NaN or infinity in {self.dtype}{when} (first in {self.block}); "
            "that part was run again in float32"
        )


@dataclass
class Sentinel:
    """Watches the parts of a model during one drawing.

    A part that made a non-finite value stays in float32 until the drawing ends, and is then put
    back, so that a picture never depends on the pictures drawn before it. The way to float32 and
    back loses nothing: every float16 and bfloat16 is a float32.
    """

    step: int | None = None  # kept up to date by whoever runs the sampling loop
    placement: Placement | None = None  # told of each part before it runs
    incidents: list[Incident] = field(default_factory=list)
    _raised: dict[nn.Module, torch.dtype] = field(default_factory=dict)

    def run(
        self,
        part: str,
        module: nn.Module,
        call: Callable[[], Result],
        *,
        engine: str | None = None,
        by_engine: Callable[[], Result] | None = None,
    ) -> Result:
        """The result of `call`, which runs `module`; run again in float32 if it is not finite.

        by_engine: asked first, if given: the same from an engine of this name.
        Raises NonFiniteError, naming the part and the first block, if float32 does not help.
        """
        if self.placement is not None:
            self.placement.needed(module)
        if by_engine is not None and module not in self._raised:
            result = by_engine()
            if finite(result):
                return result
            self.incidents.append(Incident(part, "", _name(_dtype(module)), self.step, engine))
        result = call()
        if finite(result):
            return result
        dtype = _dtype(module)
        block = first_nonfinite(module, call)
        if dtype in (torch.float16, torch.bfloat16):
            self._raised[module] = dtype
            if self.placement is not None:
                self.placement.held(module)  # the copy in float32 must not go
            module.float()
            result = call()
            if finite(result):
                self.incidents.append(Incident(part, block, _name(dtype), self.step))
                return result
            block = first_nonfinite(module, call)
        raise NonFiniteError(_explain(part, block, self.step, module))

    def restore(self) -> None:
        """Put every part back into the type it had."""
        for module, dtype in self._raised.items():
            module.to(dtype)
        self._raised.clear()
        if self.placement is not None:
            self.placement.release()


@contextmanager
def watch(placement: Placement | None = None) -> Iterator[Sentinel]:
    """A sentinel for one drawing; the parts it raised to float32 are put back at the end."""
    sentinel = Sentinel(placement=placement)
    try:
        yield sentinel
    finally:
        sentinel.restore()


def finite(result: object) -> bool:
    """Whether all floating-point tensors in a result are finite; looks into tuples, dataclasses."""
    return all(bool(torch.isfinite(t).all()) for t in tensors_in(result))


def first_nonfinite(module: nn.Module, call: Callable[[], object]) -> str:
    """Path of the first innermost module whose output is not finite while `call` runs.

    Modules finish before their parents, so the first one reported is an innermost one.
    Returns "its input" if a value was non-finite before any module ran.
    """
    names = {child: name or "the whole part" for name, child in module.named_modules()}
    found: list[str] = []

    def look(child: nn.Module, args: tuple[object, ...], output: object) -> None:
        if not found and not finite(output):
            found.append("its input" if not finite(args) else names[child])

    handles = [child.register_forward_hook(look) for child in names]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "its last operation"


def _explain(part: str, block: str, step: int | None, module: nn.Module) -> str:
    when = "" if step is None else f" at step {step}"
    broken = next((n for n, p in module.named_parameters() if not torch.isfinite(p).all()), None)
    why = (
        f"the weight {broken} is itself not finite: the file is damaged, get it again"
        if broken
        else "in float32 too: the weights or an adapter do not fit this model"
    )
    return f"{part} made NaN or infinity{when} (first in {block}); {why}"


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tensors_in(value: object) -> Iterator[Tensor]:
    """The floating-point tensors in a value; looks into tuples, lists and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, name))
