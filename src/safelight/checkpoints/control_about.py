"""How the maps of a control network were made: what its training wrote beside it."""

from pathlib import Path

from safelight.checkpoints.folders import read_json
from safelight.checkpoints.writing import write_json
from safelight.preprocessors.making import Making, making_from_json

FILE = "control.json"
WEIGHTS = "controlnet.safetensors"  # the one name of a single file that it may lie beside


def making_of(path: Path) -> Making | None:
    """How the maps were made that a control network learned from; None if nothing says so.

    path: its folder, or its file, if that is called as training calls it: beside any other file it
    would speak of a neighbour. Raises FileError or CheckpointError if what is there cannot be used.
    """
    if path.is_dir():
        about = path / FILE
    elif path.name == WEIGHTS:
        about = path.parent / FILE
    else:
        return None
    return making_from_json(read_json(about), str(about)) if about.is_file() else None


def write_making(making: Making, folder: Path) -> None:
    """Write it into the folder of the network. Raises OutputError."""
    write_json(folder / FILE, making.to_json())
