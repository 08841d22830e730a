"""OpenVINO's Python package, imported so that it reports nothing.

`import openvino` tells its makers over the network that it was imported, and leaves a number that
stands for the user in his home folder, unless its companion `openvino_telemetry` is absent; then it
has a silent stand-in. So it is absent while the package is imported here.
"""

import sys
from functools import cache
from importlib.util import find_spec
from typing import Any

from safelight.errors import RequestError

INSTALL = "it needs OpenVINO: pip install 'safelight[openvino]'"

_REPORTER = "openvino_telemetry"


def installed() -> bool:
    """Whether OpenVINO can be imported."""
    return find_spec("openvino") is not None


@cache
def openvino() -> Any:
    """The package. Raises RequestError if it is not installed."""
    if not installed():
        raise RequestError(f"engine openvino cannot run here: {INSTALL}")
    absent = _REPORTER not in sys.modules
    if absent:
        sys.modules[_REPORTER] = None  # type: ignore[assignment]
    try:
        import openvino as package
    finally:
        if absent:
            del sys.modules[_REPORTER]
    return package
