"""k-diffusion's own `sampling` module, for comparison.

The package's `__init__` imports its training code and with it torchvision and clip, which the
samplers do not need. So the module is loaded under a bare parent package whose `utils` holds the
one function that the samplers use.
"""

import importlib.util
import sys
from functools import cache
from types import ModuleType

from torch import Tensor


@cache
def kdiffusion() -> ModuleType:
    """`k_diffusion.sampling`; raises ImportError if k-diffusion is not installed."""
    package = importlib.util.find_spec("k_diffusion")
    if package is None or package.submodule_search_locations is None:
        raise ImportError("the oracle is missing: pip install --no-deps k-diffusion")
    parent, utils = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
    parent.__path__ = list(package.submodule_search_locations)
    parent.__dict__["utils"] = utils
    utils.__dict__["append_dims"] = _append_dims
    sys.modules.update({"k_diffusion": parent, "k_diffusion.utils": utils})
    return importlib.import_module("k_diffusion.sampling")


def _append_dims(x: Tensor, dimensions: int) -> Tensor:
    return x[(..., *[None] * (dimensions - x.ndim))]
