"""What the fixture `on_disk` of tests/checkpoints gives."""

from dataclasses import dataclass
from pathlib import Path

import pytest

import tiny

# Those that differ in structure and not in a number of channels; CI runs the others too.
_DISTINCT = {"sd15", "tiny-sd", "sd2-v", "x4-upscaler", "sdxl", "sdxl-refiner", "ssd-1b"}
EVERY_FAMILY = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in _DISTINCT else pytest.mark.slow)
        for name in tiny.FAMILIES
    ],
)


@dataclass(frozen=True)
class OnDisk:
    """One family in both layouts, and the modules of Diffusers that it was written from."""

    made: tiny.Oracle
    folder: Path
    single: Path
