"""The files that all contenders of a run share: the model in their layouts, and the inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from safelight.benchmarks.geometry import GEOMETRIES, enlivened, random_model
from safelight.benchmarks.inputs import write_inputs
from safelight.checkpoints.load import open_checkpoint
from safelight.checkpoints.save import convert, save
from safelight.embedded.carried import embedded_folder
from safelight.errors import RequestError
from safelight.families import Family
from safelight.writing import make_folder

FILE_TYPE = torch.float16  # of random weights: as published models have them


@dataclass(frozen=True)
class Furnished:
    """A model on disk and what it is. single is made when a peer asks for it."""

    family: Family
    folder: Path  # of Diffusers' layout
    single: Path
    work: Path  # for inputs, exports and outputs


def family_of(geometry: str | None, model: Path | None) -> Family:
    """What will be timed, before anything is built.

    Raises RequestError for a geometry that is not known, or without a carried model, and what
    opening the model raises.
    """
    if model is None and geometry is not None:
        if geometry not in GEOMETRIES:
            raise RequestError(
                f"there is no geometry {geometry!r}; choose from {', '.join(GEOMETRIES)}, "
                "or give a model with -m"
            )
        shape = GEOMETRIES[geometry].shape()
        if shape is not None:
            return shape
    path = model or embedded_folder()
    if path is None:
        raise RequestError(
            "this installation carries no model; choose another geometry, or give one with -m"
        )
    with open_checkpoint(path) as checkpoint:
        return checkpoint.family


def furnished(
    geometry: str | None,
    model: Path | None,
    work: Path,
    *,
    single: bool,
    say: Callable[[str], None],
) -> Furnished:
    """The model as a Diffusers folder, and as one file if asked for; what is there is kept."""
    make_folder(work)
    name = geometry or "given"
    family = family_of(geometry, model)
    path = model or (embedded_folder() if GEOMETRIES[name].family is None else None)
    if path is None:
        folder = work / f"{name}-fp16"
        if not folder.exists():
            say(f"drawing weights for {GEOMETRIES[name].words}")
            made = enlivened(random_model(family))
            save(made, folder, dtype=FILE_TYPE)
    elif path.is_dir():
        folder = path
    else:
        folder = work / f"{path.stem}-folder"
        if not folder.exists():
            say("writing the model as a folder, which all contenders read")
            convert(path, folder, "diffusers")
    file = work / f"{folder.name}.safetensors"
    if single and not file.exists():
        say("writing the model as one file")
        convert(folder, file, "ldm")
    return Furnished(family, folder, file, work)


def inputs_for(
    made: Furnished, size: tuple[int, int], *, batch: int, guided: bool, seed: int
) -> Path:
    """The folder of inputs for pictures of this size, written anew."""
    folder = made.work / f"inputs-{size[0]}x{size[1]}-{batch}-{'guided' if guided else 'plain'}"
    make_folder(folder)
    write_inputs(folder, made.family, size, batch=batch, guided=guided, seed=seed)
    return folder
