"""Where the model lies that the package carries, if it carries one.

Its weights are data beside this file, written by `scripts/embedded/pack.py`. Only paths are known
here; whoever reads the weights does so as with any other model.
"""

from importlib.resources import files
from pathlib import Path

NAME = "embedded"  # what `--model` and recipes call it
FOLDER = "emoji"
INDEX = "model_index.json"  # without it the folder holds no model


def shelf() -> Path | None:
    """Where the model belongs, whether it is there or not; None if the package is no folder."""
    place = files(__package__).joinpath(FOLDER)
    return place if isinstance(place, Path) else None


def embedded_folder() -> Path | None:
    """The folder of the model that this installation carries; None if it carries none."""
    folder = shelf()
    return folder if folder is not None and (folder / INDEX).is_file() else None


def is_embedded(path: Path) -> bool:
    """Whether a path is the embedded model's folder, or lies in it."""
    folder = embedded_folder()
    return folder is not None and path.resolve().is_relative_to(folder.resolve())
