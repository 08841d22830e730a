"""OpenVINO itself: whether it is there, and a graph made ready to run on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from safelight.engines.openvino_graph import Graph
from safelight.engines.openvino_import import INSTALL, installed, openvino
from safelight.errors import RequestError

Precision = Literal["f32", "bf16"]


@cache
def core() -> Any:
    """The one openvino.Core of the process. Raises RequestError if OpenVINO is not installed."""
    return openvino().Core()


def missing(*needed: Literal["BF16", "INT8"]) -> str | None:
    """Why OpenVINO cannot compute here with all that is needed, and what to do; None if it can."""
    if not installed():
        return INSTALL
    try:
        found = capabilities()
    except Exception as error:  # a broken installation: whatever the runtime raises
        return f"OpenVINO finds no CPU it can use ({_first_line(error)}); draw with --engine eager"
    absent = [one for one in needed if one not in found]
    if absent:
        return (
            f"this processor has no fast {' and '.join(absent)} arithmetic; "
            "draw with --engine openvino, or with eager"
        )
    return None


def capabilities() -> frozenset[str]:
    """The kinds of arithmetic that OpenVINO finds fast on this processor: "FP32", "BF16", ..."""
    return frozenset(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def version() -> str:
    """OpenVINO's version, with its build."""
    return str(openvino().get_version())


def precision_of(dtype: torch.dtype) -> Precision:
    """In what a network with weights of this type is computed.

    bfloat16 where the weights are and the processor has it, else float32: of float16 too, which
    processors multiply no faster.
    """
    return "bf16" if dtype == torch.bfloat16 and "BF16" in capabilities() else "f32"


@dataclass(frozen=True, eq=False)
class Compiled:
    """A graph ready to run, for inputs of one shape.

    inputs: from the network's to the graph's. kept: tensors whose memory the runtime still reads.
    """

    graph: Graph
    request: Any

    def __call__(self, given: Sequence[Tensor]) -> Tensor:
        """The network's inputs -> its output, float32, in memory of its own."""
        return self.results(given)[0]

    def results(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The network's inputs -> its output, and the graph's further results in order."""
        inputs = [_array(tensor) for tensor in self.graph.prelude(given)]
        made = self.request.infer(inputs, share_inputs=True)
        return [torch.from_numpy(array) for array in made.to_tuple()]


def compiled(graph: Graph, precision: Precision) -> Compiled:
    """A graph made ready on as many threads as PyTorch uses.

    Raises RequestError if the runtime refuses it.
    """
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        # Others may want the processor too, and a thread bound to a busy one waits for it.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        model = core().compile_model(graph.model, "CPU", options)
        return Compiled(graph, model.create_infer_request())
    except RuntimeError as error:
        raise RequestError(
            f"engine openvino cannot prepare this network: {_first_line(error)}; "
            "draw with --engine eager"
        ) from None


def _array(tensor: Tensor) -> Any:
    wide = tensor.float() if tensor.is_floating_point() else tensor
    return wide.detach().contiguous().numpy()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
