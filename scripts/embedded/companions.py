"""What goes with the embedded model into the package: ControlNet, LoRA and tiny decoder."""

from pathlib import Path

import torch

from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.control_about import making_of, write_making
from safelight.checkpoints.control_load import check_fits, load_control
from safelight.checkpoints.control_save import save_control
from safelight.checkpoints.load import load_autoencoder
from safelight.embedded.carried import COMPANIONS, EDGES, SPEED, TINY
from safelight.errors import CheckpointError
from safelight.model import Model
from safelight.models.autoencoder import Codec
from safelight.models.controlnet import ControlNet
from safelight.models.taesd import TinyAutoencoder
from safelight.printable import shown
from safelight.writing import make_folder, write_whole


def write_companions(
    model: Model,
    folder: Path,
    *,
    edges: Path | None = None,
    speed: Path | None = None,
    tiny: Path | None = None,
) -> None:
    """Write into the model's folder what goes with it, under the names that recipes keep.

    edges: a folder that the recipe controlnet wrote; it is kept in 16 bits. speed: a LoRA's file,
    tiny: that of a tiny decoder; both are kept as they are.

    Raises CheckpointError if one does not fit the model or is something else.
    """
    if edges is not None:
        write_edges(model, edges, folder / COMPANIONS[EDGES])
    if speed is not None:
        found = load_adapter(speed, model)
        if found.unmatched:
            raise CheckpointError(f"{found.summary}; what ships must match whole")
        _copied(speed, folder / COMPANIONS[SPEED])
    if tiny is not None:
        check_tiny(model, tiny)
        _copied(tiny, folder / COMPANIONS[TINY])


def check_tiny(model: Model, path: Path) -> Codec:
    """The tiny decoder of a file, in float32.

    Raises CheckpointError if it is none, or shows latents of another kind than the model's.
    """
    codec = load_autoencoder(path, dtype=torch.float32, family=model.family)
    coder = codec.autoencoder
    if not isinstance(coder, TinyAutoencoder) or coder.config.encodes:
        raise CheckpointError(f"{shown(path)} is no tiny decoder")
    if codec.factor != model.codec.factor:
        raise CheckpointError(
            f"{shown(path)} shows latents of 1/{codec.factor} the size; the model's are of "
            f"1/{model.codec.factor}"
        )
    return codec


def _copied(source: Path, target: Path) -> None:
    make_folder(target.parent)
    write_whole(target, source.read_bytes())


def write_edges(model: Model, source: Path, target: Path) -> None:
    """Write a ControlNet in 16 bits, with how its maps were made."""
    making = making_of(source)
    if making is None:
        raise CheckpointError(
            f"{shown(source)} does not say how its maps were made; give the folder that "
            "`safelight train` wrote"
        )
    network = edges_of(model, source)
    save_control(network, target, dtype=torch.float16)
    write_making(making, target)


def edges_of(model: Model, path: Path) -> ControlNet:
    """The ControlNet of a folder in float32.

    Raises CheckpointError if it is something else, or for another model.
    """
    loaded = load_control(path, dtype=torch.float32, base=model.network.unet)
    check_fits(loaded, model)
    if not isinstance(loaded.network, ControlNet):
        raise CheckpointError(f"{shown(path)} is a {loaded.kind}, and no ControlNet")
    return loaded.network
