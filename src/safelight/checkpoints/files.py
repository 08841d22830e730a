"""The door to weights on disk: names, shapes and types first, tensors when asked.

What a file is follows from its first bytes, never from its name. Nothing in a file can run.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from safelight.checkpoints.pickle_file import PickleFile, is_pickle
from safelight.checkpoints.regular_file import RegularFile
from safelight.checkpoints.safetensors_file import SafetensorsFile, header_length
from safelight.checkpoints.weight_file import Container, JoinedFiles, TensorInfo, WeightFile
from safelight.errors import FileError
from safelight.printable import shown

__all__ = [
    "Container",
    "JoinedFiles",
    "TensorInfo",
    "WeightFile",
    "open_shards",
    "open_weights",
]

# What else people feed to a loader, by its first bytes.
FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights: run `git lfs pull`"),
    (b"<!doctype", "a web page, not weights: the download needs a login or another address"),
    (b"<html", "a web page, not weights: the download needs a login or another address"),
    (b"GGUF", "a GGUF file; expected .safetensors or .ckpt"),
    (b"\x89HDF", "an HDF5 file; expected .safetensors or .ckpt"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89PNG", "a picture, not weights"),
    (b"\xff\xd8\xff", "a picture, not weights"),
)


def open_weights(path: str | os.PathLike[str]) -> WeightFile:
    """One opened weights file: safetensors, or a PyTorch file read without running anything.

    Raises FileError if it is missing, not a regular file, damaged or something else, and
    UnsafeFileError if it asks to run code.
    """
    file = RegularFile(path)
    try:
        return _opened(file)
    except BaseException:
        file.close()
        raise


def open_shards(paths: Sequence[Path]) -> WeightFile:
    """Several files as one, as `folders.find_weights` lists them; one path gives that file alone.

    Raises FileError as `open_weights` does, and when two files hold the same name.
    """
    if len(paths) == 1:
        return open_weights(paths[0])
    if not paths:
        raise FileError("no weights files were given")
    parts: list[WeightFile] = []
    try:
        for path in paths:
            parts.append(open_weights(path))
        return JoinedFiles(paths[0].parent, parts)
    except BaseException:
        for part in parts:
            part.close()
        raise


def _opened(file: RegularFile) -> WeightFile:
    where = shown(file.path)
    if file.size == 0:
        raise FileError(f"{where} is empty; download or copy it again")
    first = file.bytes(0, min(file.size, 512))
    if header_length(first, file.size) is not None:
        return SafetensorsFile(file)
    for start, kind in FOREIGN:
        if first[: len(start)].lower() == start.lower():
            raise FileError(f"{where} is {kind}")
    if is_pickle(first):
        if file.path.suffix.lower() == ".safetensors":
            raise FileError(
                f"{where} is a pickle renamed to .safetensors, so it was not opened: get the real "
                "safetensors file, or rename it to .ckpt to have it read without running anything"
            )
        return PickleFile(file)
    if file.path.suffix.lower() == ".safetensors" or first[8:9] == b"{":
        return SafetensorsFile(file)  # says what is wrong with it
    raise FileError(
        f"{where} is neither safetensors nor a PyTorch file (it starts with {shown(first[:8])})"
    )
