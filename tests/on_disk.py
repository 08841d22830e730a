"""What the fixture `on_disk` of tests/checkpoints gives."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

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


def altered(folder: Path, target: Path) -> Path:
    """A copy of a folder, to be changed."""
    shutil.copytree(folder, target)
    return target


def assert_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """The same names with the same bits, whatever the types."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
