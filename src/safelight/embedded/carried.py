"""Where the model lies that the package carries, if it carries one, and what goes with it.

Its weights are data beside this file, written by `scripts/embedded/pack.py`. Only paths are known
here; whoever reads the weights does so as with any other model.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

NAME = "embedded"  # what `--model` and recipes call it
FOLDER = "emoji"
INDEX = "model_index.json"  # without it the folder holds no model

EDGES = "embedded-edges"  # what `--control` and recipes call its ControlNet for edges
SPEED = "embedded-lcm"  # what `--lora` and recipes call its LoRA for few steps
TINY = "embedded-tiny"  # what `--vae` and recipes call its tiny decoder
# Where companions lie in the folder. The last part of each path, without its suffix, is the name:
# a recipe keeps no other part of a path, and finds the file by it.
COMPANIONS: Mapping[str, str] = MappingProxyType(
    {
        EDGES: f"controls/{EDGES}",
        SPEED: f"loras/{SPEED}.safetensors",
        TINY: f"decoders/{TINY}.safetensors",
    }
)
NAMES = (NAME, *COMPANIONS)


def shelf() -> Path | None:
    """Where the model belongs, whether it is there or not; None if the package is no folder."""
    place = files(__package__).joinpath(FOLDER)
    return place if isinstance(place, Path) else None


def embedded_folder() -> Path | None:
    """The folder of the model that this installation carries; None if it carries none."""
    folder = shelf()
    return folder if folder is not None and (folder / INDEX).is_file() else None


def companion(name: str) -> Path | None:
    """The file or folder of what goes with the embedded model; None if it is not carried.

    name: one of COMPANIONS, in any case.
    """
    folder, inner = embedded_folder(), COMPANIONS.get(name.lower())
    if folder is None or inner is None:
        return None
    return folder / inner if (folder / inner).exists() else None


def is_embedded(path: Path) -> bool:
    """Whether a path is the embedded model's folder, or lies in it."""
    folder = embedded_folder()
    return folder is not None and path.resolve().is_relative_to(folder.resolve())
