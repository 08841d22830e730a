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
    from safelight.model import Model

EAGER = "eager"


@dataclass(frozen=True)
class Engine:
    """One way to compute a model.

    missing: why it cannot run on this machine, and what to do; None if it can.
    applied: the model, computed by it. exact: whether it gives eager's numbers to rounding.
    """

    name: str
    summary: str
    missing: Callable[[], str | None]
    applied: Callable[["Model"], "Model"]
    exact: bool = True


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


def _nothing() -> None:
    return None


ENGINES = MappingProxyType(
    {
        engine.name: engine
        for engine in (
            Engine(EAGER, "PyTorch's modules, as they are", _nothing, lambda model: model),
        )
    }
)
