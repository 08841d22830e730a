"""The engines by name: what may compute a model in place of its modules.

An engine is `Model -> Model`: the same value with another runner inside. Tasks, samplers and
guidance do not change. Nothing here imports a runtime before its engine is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from safelight.errors import RequestError

if TYPE_CHECKING:
    from torch import nn

    from safelight.model import Model, Sink

EAGER = "eager"
AUTO = "auto"  # no engine: the one that is done soonest, see `engines.choice`


@dataclass(frozen=True)
class Engine:
    """One way to compute a model.

    missing: why it cannot run on this machine, and what to do; None if it can.
    applied: the model, computed by it. exact: whether it gives eager's numbers to rounding.
    sink: makes what keeps weights in a form of its own while they are loaded.
    network: does to a network or layer, whose weights the sink took, what `applied` does to a
        model; with it the parts of a model may come and go.
    """

    name: str
    summary: str
    missing: Callable[[], str | None]
    applied: Callable[["Model"], "Model"]
    exact: bool = True
    sink: Callable[[], "Sink"] | None = None
    network: Callable[["nn.Module"], None] | None = None


def engined(model: "Model", name: str) -> "Model":
    """The model, computed by the engine of this name.

    Raises RequestError if there is none, or it cannot run on this machine or this model.
    """
    engine = ENGINES.get(name)
    if engine is None:
        raise RequestError(f"there is no engine {name!r}; choose from {', '.join(ENGINES)}.")
    if reason := engine.missing():
        raise RequestError(f"engine {name} cannot run here: {reason}")
    return engine.applied(model)


def sink_of(name: str) -> "Sink | None":
    """What takes the weights of a model on their way from the file to this engine, if it does."""
    engine = ENGINES.get(name)
    return None if engine is None or engine.sink is None else engine.sink()


def _nothing() -> None:
    return None


def _compiled_missing() -> str | None:
    from safelight.engines.compiled import missing

    return missing()


def _compiled(model: "Model") -> "Model":
    from safelight.engines.compiled import compiled

    return compiled(model)


def _openvino_missing() -> str | None:
    from safelight.engines.openvino_runtime import missing

    return missing()


def _openvino(model: "Model") -> "Model":
    from safelight.engines.openvino import applied

    return applied(model)


def _openvino_int8_missing() -> str | None:
    from safelight.engines.openvino_runtime import missing

    return missing("INT8")


def _openvino_int8(model: "Model") -> "Model":
    from safelight.engines.openvino_int8 import applied

    return applied(model)


def _int8_weights(model: "Model") -> "Model":
    from safelight.engines.int8_weights import int8_weights

    return int8_weights(model)


def _int8_sink() -> "Sink":
    from safelight.engines.int8_weights import Int8Sink

    return Int8Sink()


def _to_int8(network: "nn.Module") -> None:
    from safelight.engines.int8_weights import to_int8

    to_int8(network)


def _int8_dynamic_missing() -> str | None:
    from safelight.engines.int8_weights import missing_dynamic

    return missing_dynamic()


def _int8_dynamic(model: "Model") -> "Model":
    from safelight.engines.int8_weights import int8_dynamic

    return int8_dynamic(model)


def _recorded_missing() -> str | None:
    from safelight.engines.recorded import missing

    return missing()


def _recorded(model: "Model") -> "Model":
    from safelight.engines.recorded import recorded

    return recorded(model)


def _fp8_missing() -> str | None:
    from safelight.engines.fp8 import missing

    return missing()


def _fp8(model: "Model") -> "Model":
    from safelight.engines.fp8 import fp8

    return fp8(model)


def _fp8_sink() -> "Sink":
    from safelight.engines.fp8 import Fp8Sink

    return Fp8Sink()


def _to_fp8(network: "nn.Module") -> None:
    from safelight.engines.fp8 import to_fp8

    to_fp8(network)


ENGINES = MappingProxyType(
    {
        engine.name: engine
        for engine in (
            Engine(EAGER, "PyTorch's modules, as they are", _nothing, lambda model: model),
            Engine(
                "compiled",
                "a library compiled for this processor or device, once for each size",
                _compiled_missing,
                _compiled,
            ),
            Engine(
                "openvino",
                "Intel's runtime: a graph for each size, in fp32 or bf16",
                _openvino_missing,
                _openvino,
            ),
            Engine(
                "openvino-int8",
                "the same, with the products that bear it in eight bits",
                _openvino_int8_missing,
                _openvino_int8,
                exact=False,
            ),
            Engine(
                "int8-weights",
                "weights in eight bits, multiplied as the type asked for: less memory, not quicker",
                _nothing,
                _int8_weights,
                exact=False,
                sink=_int8_sink,
                network=_to_int8,
            ),
            Engine(
                "int8-dynamic",
                "the same, and the U-Net's products in eight bits, by PyTorch alone",
                _int8_dynamic_missing,
                _int8_dynamic,
                exact=False,
                sink=_int8_sink,
            ),
            Engine(
                "recorded",
                "the U-Net's calls as CUDA graphs, for each size",
                _recorded_missing,
                _recorded,
            ),
            Engine(
                "fp8",
                "weights in eight-bit floating point, multiplied so by a GPU that can",
                _fp8_missing,
                _fp8,
                exact=False,
                sink=_fp8_sink,
                network=_to_fp8,
            ),
        )
    }
)
