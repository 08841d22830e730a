"""What goes with the embedded model into the package: its ControlNet for edges, its LoRA."""

from pathlib import Path

import torch

from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.control_about import making_of, write_making
from safelight.checkpoints.control_load import check_fits, load_control
from safelight.checkpoints.control_save import save_control
from safelight.embedded.carried import COMPANIONS, EDGES, SPEED
from safelight.errors import CheckpointError
from safelight.model import Model
from safelight.models.controlnet import ControlNet
from safelight.printable import shown
from safelight.writing import make_folder, write_whole


def write_companions(
    model: Model, folder: Path, *, edges: Path | None = None, speed: Path | None = None
) -> None:
    """Write into the model's folder what goes with it, under the names that recipes keep.

    edges: a folder that the recipe controlnet wrote; it is kept in 16 bits. speed: a LoRA's file,
    kept as it is. Raises CheckpointError if one does not fit the model or is something else.
    """
    if edges is not None:
        write_edges(model, edges, folder / COMPANIONS[EDGES])
    if speed is not None:
        found = load_adapter(speed, model)
        if found.unmatched:
            raise CheckpointError(f"{found.summary}; what ships must match whole")
        make_folder((folder / COMPANIONS[SPEED]).parent)
        write_whole(folder / COMPANIONS[SPEED], speed.read_bytes())


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
