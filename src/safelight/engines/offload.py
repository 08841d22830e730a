"""Which parts of a model are in memory, and when: the one place where parts are moved.

Three ways, none of which changes a bit of a picture where the device stays the same:

- none: all parts are on the device all the time.
- parts: text encoders, U-Net and autoencoder are there only while they work, one after the other.
- sequential: as parts, and of the U-Net no more than one block at a time, for every call anew.

Where parts lie meanwhile, a `Rest` knows: in the memory of the machine that a GPU is in, or, where
the work is done on the CPU, in their files.
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, Protocol, Self

import torch
from torch import Tensor, nn

from safelight.models.folded_upsample import forget
from safelight.models.unet import UNet

Offload = Literal["none", "parts", "sequential"]


class Rest(Protocol):
    """Where the weights of a module lie while they are not in use.

    present: whether they are in place. nbytes: what they take then.
    """

    module: nn.Module
    present: bool

    @property
    def nbytes(self) -> int: ...

    def bring(self) -> None:
        """Put the weights in place; nothing if they are."""
        ...

    def let_go(self) -> None:
        """Take them away; nothing if they are."""
        ...

    def split(self, inner: Iterable[tuple[str, nn.Module]]) -> Sequence[Self]:
        """Rests of inner modules, by their paths, and last of what is in none of them."""
        ...


class HostRest:
    """Weights that lie in the machine's memory, of which a device gets a copy while it works.

    What lies elsewhere when the module is brought, as that of adapters, goes and comes with it. A
    weight that was changed on the device is written back.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        *,
        move: Callable[[Tensor], Tensor] | None = None,
        leave_out: Sequence[nn.Module] = (),
    ) -> None:
        """move: the copy on the device. leave_out: inner modules that have a rest of their own."""
        self.module = module
        self.present = False
        self._device = device
        self._move = move or (lambda tensor: tensor.to(device))
        self._left_out = tuple(leave_out)
        self._lying: list[tuple[nn.Parameter, Tensor, int]] = []

    @property
    def nbytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self._parameters())

    def bring(self) -> None:
        if self.present:
            return
        self.present = True
        for parameter in self._parameters():
            lying = parameter.data
            parameter.data = self._move(lying)
            self._lying.append((parameter, lying, parameter._version))

    def let_go(self) -> None:
        if not self.present:
            return
        self.present = False
        for parameter, lying, version in self._lying:
            if parameter._version != version:
                lying.copy_(parameter.data)
            parameter.data = lying
        self._lying.clear()

    def split(self, inner: Iterable[tuple[str, nn.Module]]) -> list["HostRest"]:
        modules = [module for _, module in inner]
        rests = [HostRest(m, self._device, move=self._move) for m in modules]
        rest = HostRest(self.module, self._device, move=self._move, leave_out=modules)
        return [*rests, rest]

    def _parameters(self) -> Iterator[nn.Parameter]:
        others = {id(p) for module in self._left_out for p in module.parameters()}
        return (p for p in self.module.parameters() if id(p) not in others)


class Placement:
    """Has the parts of a model in place when they are needed, and only then.

    device: where the work is done. Parts that have no rest are none of its business. Whoever uses
    a part says so first (`needed`); `engines.sentinel` does it for all that it watches.
    """

    def __init__(
        self, device: torch.device, rests: Iterable[Rest], *, sequential: bool = False
    ) -> None:
        self.device = device
        self._sequential = sequential
        self._parts = [_Part(rest, sequential=sequential) for rest in rests]

    @property
    def kind(self) -> Offload:
        return "sequential" if self._sequential else "parts"

    @property
    def nbytes(self) -> int:
        """Bytes of weights that are in place now."""
        return sum(part.nbytes for part in self._parts)

    def joined(self, rests: Iterable[Rest]) -> None:
        """Look after these parts too: those of a further model."""
        self._parts += [_Part(rest, sequential=self._sequential) for rest in rests]

    def needed(self, *modules: nn.Module) -> None:
        """Have these parts in place, or those that they contain; let go of others not held."""
        wanted = self._of(modules)
        if not wanted:
            return
        gone = [part for part in self._parts if part not in wanted and part.let_go()]
        if gone:
            trim()
        for part in wanted:
            part.bring()

    def held(self, *modules: nn.Module) -> None:
        """Have all of these parts in place and keep them, whatever is needed, until `release`."""
        for part in self._of(modules):
            part.hold()

    def release(self) -> None:
        """Hold no part any more. What is in place stays until something else is needed."""
        for part in self._parts:
            part.release()

    def _of(self, modules: Sequence[nn.Module]) -> list["_Part"]:
        near = {id(m) for module in modules for m in (module, *module.children())}
        return [part for part in self._parts if id(part.module) in near]


class _Part:
    """A part of a model: what of it comes and goes with it, and what with each call of a block."""

    def __init__(self, rest: Rest, *, sequential: bool) -> None:
        self.module = rest.module
        self._blocks: list[Rest] = []
        self._whole: Rest = rest
        self._is_held = False
        if sequential and isinstance(rest.module, UNet):
            *self._blocks, self._whole = rest.split(blocks_of(rest.module))
            for block in self._blocks:
                self._stream(block)

    @property
    def nbytes(self) -> int:
        return sum(rest.nbytes for rest in (*self._blocks, self._whole) if rest.present)

    def bring(self) -> None:
        self._whole.bring()

    def let_go(self) -> bool:
        """Whether anything went."""
        if self._is_held or not (self._whole.present or any(b.present for b in self._blocks)):
            return False
        for rest in (*self._blocks, self._whole):
            _away(rest)
        return True

    def hold(self) -> None:
        self._is_held = True
        for rest in (*self._blocks, self._whole):
            rest.bring()

    def release(self) -> None:
        self._is_held = False
        for block in self._blocks:
            _away(block)

    def _stream(self, block: Rest) -> None:
        def before(module: nn.Module, given: object) -> None:
            block.bring()

        def after(module: nn.Module, given: object, output: object) -> None:
            if not self._is_held:
                _away(block)

        block.module.register_forward_pre_hook(before)
        block.module.register_forward_hook(after, always_call=True)


def _away(rest: Rest) -> None:
    """Let weights go, and what was made of them for speed."""
    rest.let_go()
    forget(rest.module)


def blocks_of(unet: UNet) -> list[tuple[str, nn.Module]]:
    """The modules of a U-Net that work one after another, by their paths: most of its weights."""
    levels = [
        *((f"down_blocks.{i}", block) for i, block in enumerate(unet.down_blocks)),
        *([] if unet.mid_block is None else [("mid_block", unet.mid_block)]),
        *((f"up_blocks.{i}", block) for i, block in enumerate(unet.up_blocks)),
    ]
    return [
        (f"{path}.{name}.{k}", module)
        for path, level in levels
        for name, modules in level.named_children()
        if isinstance(modules, nn.ModuleList)
        for k, module in enumerate(modules)
    ]


def trim() -> None:
    """Give memory that is no longer used back to the system, where the C library must be asked."""
    gc.collect()
    if sys.platform == "linux":
        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if give_back is not None:
            give_back(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
