"""Checkpoints of a run: folders that are there whole or not at all.

    FOLDER/checkpoints/step-00001234/
        state.json                    step, settings, figures, the optimizers' scalars
        PLAYER.safetensors            the weights that learn, float32, and the buffers
        PLAYER.optimizer.safetensors  what the optimizer remembers of each weight
        PLAYER.power-0.05.safetensors an average of the weights

Nothing in them can run. A folder is filled under another name, reaches the disk, and then takes its
own name at once; so a run that is killed leaves the checkpoint before as the newest one.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from safelight.checkpoints.files import open_weights
from safelight.checkpoints.folders import read_json
from safelight.checkpoints.writing import Entry, write_safetensors
from safelight.errors import CheckpointError, FileError, OutputError
from safelight.printable import shown
from safelight.writing import make_folder, whole_folder, write_text

FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")
_HALF = re.compile(r"\.[0-9a-f]{16}\.part")

Tensors = Mapping[str, Mapping[str, Tensor]]  # by part ("" for the weights), then by name


@dataclass(frozen=True, slots=True)
class State:
    """Where a run is, but for its tensors."""

    step: int  # steps done; the next one has this number
    settings: Mapping[str, object]
    order: str  # a digest of which examples come when
    players: Mapping[str, Mapping[str, object]]  # the scalars of each
    seconds: float = 0.0  # of training, over all its parts
    skipped: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    format: int = FORMAT


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    root = folder / "checkpoints"
    found = [p for p in root.iterdir() if _NAME.fullmatch(p.name)] if root.is_dir() else []
    return sorted((p for p in found if (p / "state.json").is_file()), key=step_of)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    return next(reversed(checkpoints(folder)), None)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("step-"))


def save(folder: Path, state: State, players: Mapping[str, Tensors], *, keep: int | None) -> Path:
    """Write a checkpoint and remove all but the newest `keep`, none if None. Gives its folder.

    Raises OutputError if it cannot be written; the older ones are untouched then.
    """
    root = folder / "checkpoints"
    make_folder(root)
    path = root / f"step-{state.step:08d}"
    if path in checkpoints(folder):
        return path  # the same step of the same run holds the same numbers
    text = json.dumps(asdict(state), indent=1, allow_nan=False)
    files = {
        filename(player, part): [_entry(name, value) for name, value in tensors.items()]
        for player, parts in players.items()
        for part, tensors in parts.items()
    }
    size = len(text) + sum(entry.nbytes for entries in files.values() for entry in entries)
    older = newest(folder)
    try:
        with whole_folder(path, size) as half:
            for name, entries in files.items():
                write_safetensors(half / name, entries, {"step": str(state.step)})
            write_text(half / "state.json", text)
    except OutputError as error:
        kept = f"the one of step {step_of(older)} is intact" if older else "there is no older one"
        raise OutputError(f"no checkpoint of step {state.step}: {error} ({kept})") from None
    for old in () if keep is None else checkpoints(folder)[:-keep]:
        _remove(old)
    return path


def load_state(checkpoint: Path) -> State:
    """Where the run of a checkpoint was. Raises FileError or CheckpointError."""
    values = read_json(checkpoint / "state.json")
    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{shown(checkpoint)} has format {shown(values.get('format'))}; this version reads "
            f"{FORMAT}"
        )
    try:
        return State(**values)  # type: ignore[arg-type]
    except TypeError:
        raise CheckpointError(f"{shown(checkpoint / 'state.json')} is not a run's state") from None


def load_tensors(checkpoint: Path, player: str, part: str = "") -> dict[str, Tensor]:
    """The tensors of one part of a player, on the CPU. Raises FileError.

    part is "" for the weights, "optimizer", or the name of an average such as "power:0.05".
    """
    path = checkpoint / filename(player, part)
    if not path.is_file():
        there = sorted(p.name for p in checkpoint.glob("*.safetensors"))
        raise FileError(f"{shown(checkpoint)} has no {path.name}; it has {', '.join(there)}")
    with open_weights(path) as file:
        return {name: file.read(name, copy=True) for name in file.header}


def clear_halves(folder: Path) -> None:
    """Remove what killed runs left half written or half removed.

    Not for a folder that another run is writing to.
    """
    root = folder / "checkpoints"
    for path in list(root.iterdir()) if root.is_dir() else ():
        half_removed = _NAME.fullmatch(path.name) and not (path / "state.json").exists()
        if _HALF.fullmatch(path.name) or half_removed:
            shutil.rmtree(path, ignore_errors=True)


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint so that it is no longer read. Gives its new name."""
    name = checkpoint.with_name(f"damaged-{checkpoint.name}")
    with suppress(OSError):
        os.replace(checkpoint, name)
    return name


def filename(player: str, part: str = "") -> str:
    """The file of one part of a player, in a checkpoint."""
    return f"{player}{'.' + part.replace(':', '-') if part else ''}.safetensors"


def _entry(name: str, tensor: Tensor) -> Entry:
    return Entry(name, tuple(tensor.shape), tensor.dtype, lambda: tensor)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that a kill meanwhile leaves none that looks whole."""
    with suppress(OSError):
        (checkpoint / "state.json").unlink()
    shutil.rmtree(checkpoint, ignore_errors=True)
