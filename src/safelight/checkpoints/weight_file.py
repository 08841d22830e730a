"""What every opened weights file offers, whatever container it is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from safelight.checkpoints.closing import Closes
from safelight.errors import FileError
from safelight.printable import shown

Container = Literal["safetensors", "pickle"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and type of a tensor that has not been read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class WeightFile(Protocol):
    """Names, shapes and types at once; each tensor when it is asked for.

    header lists the tensors in the order of the file. metadata holds the file's own remarks as
    text. A context manager; tensors that were read stay valid after `close`.
    """

    @property
    def path(self) -> Path: ...
    @property
    def container(self) -> Container: ...
    @property
    def header(self) -> Mapping[str, TensorInfo]: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...

    def read(self, name: str, *, dtype: torch.dtype | None = None, copy: bool = False) -> Tensor:
        """One tensor on the CPU, with the shape that `header` says.

        By default the tensor is the mapped file itself: nothing is copied, writing to it does not
        reach the file, and it depends on the file as long as it lives. copy=True, or a dtype that
        differs from the file's, gives memory of its own, filled through one small buffer.
        Raises FileError if there is no such tensor or the file changed since it was opened.
        """
        ...

    def unmap(self) -> None:
        """Let memory that is mapped go with the tensors read so far; later ones are mapped anew."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class JoinedFiles(Closes):
    """Several weights files (shards) as one; their names must not overlap.

    Raises FileError when two of them hold the same name.
    """

    def __init__(self, path: Path, parts: Iterable[WeightFile]) -> None:
        self.path = path
        self._parts = tuple(parts)
        self._owner: dict[str, WeightFile] = {}
        self.header: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}
        for part in self._parts:
            self._add(part)
        kinds = {part.container for part in self._parts}
        self.container: Container = "pickle" if "pickle" in kinds else "safetensors"

    def _add(self, part: WeightFile) -> None:
        for name, info in part.header.items():
            if name in self._owner:
                raise FileError(
                    f"{shown(self.path)}: {shown(name)} is in {shown(self._owner[name].path.name)} "
                    f"and again in {shown(part.path.name)}; the parts do not belong together"
                )
            self._owner[name] = part
            self.header[name] = info
        self.metadata |= part.metadata

    def read(self, name: str, *, dtype: torch.dtype | None = None, copy: bool = False) -> Tensor:
        """One tensor from the part that holds it; see `WeightFile.read`."""
        return self.part_of(name).read(name, dtype=dtype, copy=copy)

    def part_of(self, name: str) -> WeightFile:
        """The part that holds a tensor. Raises FileError if none does."""
        if name not in self._owner:
            raise missing(self.path, name)
        return self._owner[name]

    def unmap(self) -> None:
        for part in self._parts:
            part.unmap()

    def close(self) -> None:
        for part in self._parts:
            part.close()


def missing(path: Path, name: str) -> FileError:
    """The error for a tensor that is not in the file."""
    return FileError(f"{shown(path)} holds no tensor named {shown(name)}")
