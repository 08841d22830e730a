"""What a run changes around itself, and puts back: signals, random state, switches of PyTorch."""

import os
import signal
import threading
from collections.abc import Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType

import torch
from torch import nn

from safelight.training.settings import Settings


@dataclass(slots=True)
class Stop:
    """Whether somebody asked the run to stop."""

    asked: bool = False


@contextmanager
def signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask the run to stop after its step; a second Ctrl-C stops it at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may say what a signal does
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Inside, PyTorch's global random state may be changed; after, it is what it was."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        yield


@contextmanager
def switches(settings: Settings, device: torch.device) -> Iterator[None]:
    """The switches of PyTorch that the settings ask for, and attention that trains soundly."""
    matmul = torch.get_float32_matmul_precision()
    benchmark = torch.backends.cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn_attention = torch.backends.cuda.cudnn_sdp_enabled()
    if device.type == "cuda":
        # PyTorch then takes flash attention, else memory-efficient, else plain mathematics. On
        # Hopper and Blackwell it prefers cuDNN if that is newer than 9.15, as from torch 2.11 on.
        # The backward pass of cuDNN (seen in 9.12 to 9.26 and 9.30) scores the padding of the last
        # tile of keys as 0, not as -inf: exp(0 - logsumexp) overflows for a query whose scores all
        # lie below about -88, and its gradient is NaN from then on, though loss and forward pass
        # are sound. pytorch#196678, cudnn-frontend#160, #628, #1072. Queries and keys of a network
        # drift there after thousands of good steps.
        # Padding the keys is no way out: lengths of 64 (mod 128) fail, one query fails with 128
        # keys, and padding needs a mask, which is one more trigger and keeps flash attention away.
        torch.backends.cuda.enable_cudnn_sdp(False)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it by name
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = device.type == "cuda" and not settings.deterministic
    if settings.precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)


@contextmanager
def evaluating(
    modules: Iterable[nn.Module], device: torch.device, *, eager: bool = False
) -> Iterator[None]:
    """Evaluation mode without gradients; after, every part of the modules is as it was.

    With `eager`, compiled modules run as written: other shapes and modes would be compiled anew,
    which costs more than a few batches gain.
    """
    parts = [part for module in modules for part in module.modules()]
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(own_random_state(device))
            if eager:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


# Networks, by their shapes, whose compiled gradients were not finite where plain ones were. A run
# that goes on in this process need not find out again.
_UNSOUND: set[Hashable] = set()


@dataclass(slots=True)
class Compiled:
    """The modules of a run that were compiled; refused: whether they would be, but are unsound."""

    modules: list[nn.Module] = field(default_factory=list)
    refused: bool = False
    active: bool = False

    def undo(self) -> None:
        """From now on the modules run as written."""
        for module in self.modules:
            module._compiled_call_impl = None
        self.active = False

    def distrust(self) -> None:
        """Compile no modules of these shapes again in this process."""
        _UNSOUND.update(_shape(module) for module in self.modules)


@contextmanager
def compiled(modules: Iterable[nn.Module], wanted: bool) -> Iterator[Compiled]:
    """Compile modules in place for fixed shapes; after, they run as written."""
    chosen = [m for m in modules if m._compiled_call_impl is None] if wanted else []
    if any(_shape(module) in _UNSOUND for module in chosen):
        yield Compiled(refused=True)
        return
    for module in chosen:
        module.compile(dynamic=False)
    found = Compiled(chosen, active=bool(chosen))
    try:
        yield found
    finally:
        found.undo()


def _shape(module: nn.Module) -> Hashable:
    shapes = tuple((name, weight.shape) for name, weight in module.named_parameters())
    return type(module), shapes
