"""The engine `recorded`: the U-Net's calls as CUDA graphs, without a compiler.

A U-Net on a fast GPU waits for Python, which sends it some thousand small orders a step. A CUDA
graph is the list of these orders, recorded once and sent at a stroke: the same kernels on the same
numbers, so the same bits. An H100 took 12.7 ms in place of 32 for a step of SD 1.5 at 512 x 512
(two pictures, float16).

A graph is bound to the sizes of a call and to the addresses of what it reads. So inputs are copied
to places of its own, and it is recorded anew when a weight has moved (an adapter folded in) or a
slot was filled.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from safelight.engines.calls import put_together, taken_apart
from safelight.engines.doors import Doors
from safelight.errors import RequestError
from safelight.models.runner import Extra

if TYPE_CHECKING:
    from safelight.model import Model

NAME = "recorded"
EXTRAS: frozenset[Extra] = frozenset(
    {
        "image prompts",
        "perturbed attention",
        "FreeU",
        "T2I adapters inside the encoder",
        "ControlNets",
    }
)
KEPT = 4  # recordings, each with the memory of its own intermediate results
WARM_UP = 3  # calls before recording: libraries choose their kernels and take their workspaces


class Recording(Protocol):
    """A call that can be done again. output: what it gave last; overwritten by `replay`."""

    @property
    def output(self) -> Tensor: ...

    def replay(self) -> None: ...


Recorder = Callable[[Callable[[], Tensor]], Recording]
"""Does a call and records it. The call reads and writes the same memory each time."""


@dataclass(frozen=True)
class CudaRecording:
    """A CUDA graph, and where it leaves its result."""

    graph: torch.cuda.CUDAGraph
    output: Tensor

    def replay(self) -> None:
        self.graph.replay()


def on_cuda(work: Callable[[], Tensor]) -> CudaRecording:
    """Record a call on the current CUDA device. Raises RuntimeError if it cannot be recorded."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = work()
    return CudaRecording(graph, output)


@dataclass(frozen=True)
class _Entry:
    """A recording with the places of its inputs, and what it holds on to."""

    recording: Recording
    inputs: tuple[Tensor, ...]
    inhabitants: tuple[nn.Module, ...]  # kept, so that no other module gets their id


class RecordedUNet:
    """A `Runner` that records a U-Net's call at each size and then repeats the recording."""

    name = NAME
    extras = EXTRAS
    frozen = False

    def __init__(self, unet: nn.Module, recorder: Recorder = on_cuda) -> None:
        self._unet, self._recorder = unet, recorder
        self._doors = Doors(unet)
        self._owners = tuple(
            (module._parameters, leaf)
            for module in unet.modules()
            for leaf, parameter in module._parameters.items()
            if parameter is not None
        )
        self._entries: OrderedDict[tuple[object, ...], _Entry] = OrderedDict()
        self._places: tuple[int, ...] = ()
        self._turn = threading.Lock()

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        **told: object,
    ) -> Tensor:
        call = taken_apart(x, time.to(x.device), context, vector, **told)
        with self._turn:
            self._forget_if_moved()
            inhabitants = self._doors.inhabitants()
            key = (call.key, tuple(map(id, inhabitants)), self._doors.wraps())
            entry = self._entries.get(key)
            if entry is None:
                entry = self._recorded(call.skeleton, call.tensors, inhabitants)
                self._entries[key] = entry
                while len(self._entries) > KEPT:
                    self._entries.popitem(last=False)
            self._entries.move_to_end(key)
            for place, tensor in zip(entry.inputs, call.tensors, strict=True):
                place.copy_(tensor)
            entry.recording.replay()
            return entry.recording.output.clone()

    def release(self) -> None:
        """Let go of all recordings and their memory."""
        self._entries.clear()

    def _forget_if_moved(self) -> None:
        """A recording reads weights at the addresses that they had."""
        places = tuple(owner[leaf].data_ptr() for owner, leaf in self._owners)  # type: ignore[union-attr]
        if places != self._places:
            self._entries.clear()
            self._places = places

    def _recorded(
        self, skeleton: object, tensors: tuple[Tensor, ...], inhabitants: tuple[nn.Module, ...]
    ) -> _Entry:
        inputs = tuple(tensor.clone() for tensor in tensors)
        args, told = put_together(skeleton, inputs)

        def work() -> Tensor:
            result: Tensor = self._unet(*args, **told)
            return result

        try:
            recording = self._recorder(work)
        except RuntimeError as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RequestError(
                f"engine {NAME} could not record this model's call: {reason}; draw with "
                "--engine eager"
            ) from error
        return _Entry(recording, inputs, inhabitants)


def recorded(model: "Model") -> "Model":
    """The model with its U-Net recorded when it is first asked at a size.

    Raises RequestError for a model that is not on a CUDA device.
    """
    if model.device.type != "cuda":
        raise RequestError(
            f"engine {NAME} needs a CUDA device, and this model is on {model.device}; draw with "
            "--device cuda, or with --engine eager"
        )
    runner = RecordedUNet(model.network.unet)
    return replace(model, network=replace(model.network, runner=runner), engine=NAME)


def missing() -> str | None:
    """Why nothing can be recorded here; None if it can."""
    if torch.cuda.is_available():
        return None
    return "there is no CUDA device; draw with --engine eager"
