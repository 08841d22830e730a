"""spandrel, where torchvision is missing too: of its architectures only two need it, at import."""

import importlib
import sys
from types import ModuleType

import pytest

_STANDS_IN = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


def imported() -> ModuleType:
    """spandrel; its LaMa and RestoreFormer do not work if torchvision is not there."""
    try:
        return importlib.import_module("spandrel")
    except (ImportError, RuntimeError):
        pass
    for name in _STANDS_IN:
        sys.modules[name] = ModuleType(name)
    functional = sys.modules[_STANDS_IN[-1]]
    for name in ("InterpolationMode", "rotate", "normalize"):
        setattr(functional, name, None)
    try:
        return pytest.importorskip("spandrel", reason="spandrel is an extra (upscale)")
    finally:
        for name in _STANDS_IN:
            del sys.modules[name]
