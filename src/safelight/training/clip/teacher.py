"""What a sentence encoder said of many phrases, in a small file.

The encoder itself (a network several times the size of what learns from it) runs once; its vectors
are turned to their main axes and cut, which keeps their cosines nearly as they were.

Shapes: N phrases, W width of the vectors.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.writing import Entry, write_safetensors
from safelight.errors import CheckpointError
from safelight.printable import shown


@dataclass(frozen=True)
class Teacher:
    """Phrases, and the unit vector (N, W) that the teacher gave to each."""

    phrases: tuple[str, ...]
    vectors: Tensor

    def __post_init__(self) -> None:
        assert self.vectors.ndim == 2 and len(self.phrases) == len(self.vectors)


def reduced(vectors: Tensor, width: int) -> tuple[Tensor, float]:
    """Unit vectors (N, W) on their `width` main axes, as unit vectors; and the energy that is kept.

    The mean is not taken away: the axes are those of the second moment, on which cosines between
    the cut vectors are the best approximation of the cosines before.
    """
    exact = vectors.double()
    energies, axes = torch.linalg.eigh(exact.T @ exact)
    main = axes[:, -width:].flip(1)
    kept = float(energies[-width:].sum() / energies.sum())
    return F.normalize(exact @ main, dim=-1).float(), kept


def write_teacher(path: Path, teacher: Teacher, remarks: dict[str, str]) -> None:
    """One safetensors file: the phrases as lines of UTF-8, the vectors in 8 bits.

    The largest component of each becomes 127; as they are unit vectors, that needs no scale beside
    it. Twice the axes in 8 bits keep cosines better than half of them in 16. Raises OutputError.
    """
    lines = "\n".join(teacher.phrases).encode("utf-8")
    packed = torch.frombuffer(bytearray(lines), dtype=torch.uint8)
    largest = teacher.vectors.abs().amax(1, keepdim=True)
    vectors = (teacher.vectors / largest * 127).round().to(torch.int8)
    entries = [
        Entry("phrases", tuple(packed.shape), torch.uint8, lambda: packed),
        Entry("vectors", tuple(vectors.shape), torch.int8, lambda: vectors),
    ]
    write_safetensors(path, entries, remarks)


def read_teacher(path: Path) -> Teacher:
    """What `write_teacher` wrote; vectors in float32. Raises FileError or CheckpointError."""
    with open_weights(path) as file:
        missing = {"phrases", "vectors"} - set(file.header)
        if missing:
            raise _no_teacher(path, f"has no {' and no '.join(sorted(missing))}")
        packed, vectors = file.read("phrases", copy=True), file.read("vectors", copy=True)
    if packed.dtype != torch.uint8 or packed.ndim != 1 or vectors.ndim != 2:
        raise _no_teacher(path, "has phrases or vectors of another shape")
    try:
        phrases = bytes(packed.numpy()).decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise _no_teacher(path, "has phrases that are not UTF-8") from None
    if len(phrases) != len(vectors):
        raise _no_teacher(path, f"has {len(phrases)} phrases and {len(vectors)} vectors")
    return Teacher(tuple(phrases), F.normalize(vectors.float(), dim=-1))


def _no_teacher(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{shown(path)} {why}; give a file of a teacher's vectors as scripts/teach_text.py writes."
    )
