"""TAESD in the files it comes in: Diffusers' one, numbered halves, both in one, or a decoder."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from safelight.checkpoints.closing import Closes
from safelight.checkpoints.files import open_weights
from safelight.checkpoints.measure_unet import Shapes
from safelight.checkpoints.parts import Selection
from safelight.checkpoints.weight_file import Container, JoinedFiles, TensorInfo, WeightFile
from safelight.errors import CheckpointError
from safelight.models.taesd import TinyAutoencoderConfig
from safelight.printable import shown

_HALVES = ("encoder", "decoder")
_NUMBERED = re.compile(r"^taesd_(encoder|decoder)\.(\d+)\.(.+)$")


def with_other_half(file: WeightFile) -> tuple[WeightFile, tuple[Path, ...]]:
    """The file, joined with its other half if it is one of the two published files; and its paths.

    A decoder does without. Raises CheckpointError if an encoder's decoder does not lie beside it.
    """
    named = any(f"{half}.layers.0.weight" in file.header for half in _HALVES)
    if named or any(_NUMBERED.match(name) for name in file.header):
        return file, (file.path,)
    # The decoder's numbers start at 1: its first layer is a clamp without weights.
    own = "encoder" if "0.weight" in file.header else "decoder"
    other = next(half for half in _HALVES if half != own)
    path = file.path.with_name(file.path.name.replace(own, other))
    half = _Below(file, f"taesd_{own}.")
    if path != file.path and path.is_file():
        halves = [half, _Below(open_weights(path), f"taesd_{other}.")]
        return JoinedFiles(file.path, halves), (file.path, path)
    if own == "encoder":
        raise CheckpointError(
            f"{shown(file.path)} is the encoder of a tiny autoencoder; its decoder is needed too: "
            "put it beside it, named alike with decoder for encoder"
        )
    return half, (file.path,)


def tiny_tensors(file: WeightFile) -> Selection:
    """The tensors of a tiny autoencoder under our names."""
    names: dict[str, str] = {}
    for stored in file.header:
        if found := _NUMBERED.match(stored):
            half, number, rest = found[1], int(found[2]), found[3]
            number -= half == "decoder"
            names[f"{half}.layers.{number}.{rest}"] = stored
        else:
            names[stored] = stored
    return Selection(file, names)


def measured_tiny(shapes: Shapes) -> TinyAutoencoderConfig:
    """The config that fits tensors named `encoder.layers.N` and `decoder.layers.N`.

    Raises CheckpointError if they do not make a tiny autoencoder, or its decoder.
    """
    if not any(name.startswith("encoder.") for name in shapes):
        return _measured_decoder(shapes)
    blocks, n = _levels(shapes, "encoder.layers", 1)
    first, last = shapes.get("encoder.layers.0.weight"), shapes.get(f"encoder.layers.{n}.weight")
    end = 2 + sum(blocks) + 2 * (len(blocks) - 1)
    out = shapes.get(f"decoder.layers.{end}.weight")
    if first is None or last is None or out is None:
        raise CheckpointError("the tiny autoencoder is incomplete: a half or some layers are lost")
    return TinyAutoencoderConfig(
        in_channels=first[1],
        out_channels=out[0],
        latent_channels=last[0],
        width=first[0],
        blocks=tuple(blocks),
    )


def _measured_decoder(shapes: Shapes) -> TinyAutoencoderConfig:
    blocks, n = _levels(shapes, "decoder.layers", 2, between=2)
    first, out = shapes.get("decoder.layers.0.weight"), shapes.get(f"decoder.layers.{n}.weight")
    if first is None or out is None:
        raise CheckpointError("the tiny decoder is incomplete: some layers are lost")
    return TinyAutoencoderConfig(
        out_channels=out[0],
        latent_channels=first[1],
        width=first[0],
        blocks=tuple(blocks[::-1]),
        encodes=False,
    )


def _levels(shapes: Shapes, root: str, n: int, *, between: int = 1) -> tuple[list[int], int]:
    """The blocks of each level in the order of layers from number n, and the number after them.

    between: layers from one level to the next, the convolution last.
    """
    blocks = [0]
    while True:
        if f"{root}.{n}.conv.0.weight" in shapes:
            blocks[-1] += 1
            n += 1
        elif f"{root}.{n + between - 1}.weight" in shapes and (
            f"{root}.{n + between}.conv.0.weight" in shapes
        ):
            blocks.append(0)
            n += between
        else:
            return blocks, n


class _Below(Closes):
    """A weights file whose names are put below a prefix."""

    def __init__(self, file: WeightFile, prefix: str) -> None:
        self._file, self._prefix = file, prefix
        self.path: Path = file.path
        self.container: Container = file.container
        self.header: Mapping[str, TensorInfo] = {
            prefix + name: info for name, info in file.header.items()
        }
        self.metadata = file.metadata

    def read(self, name: str, *, dtype: torch.dtype | None = None, copy: bool = False) -> Tensor:
        return self._file.read(name.removeprefix(self._prefix), dtype=dtype, copy=copy)

    def unmap(self) -> None:
        self._file.unmap()

    def close(self) -> None:
        self._file.close()
