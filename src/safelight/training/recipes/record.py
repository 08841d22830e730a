"""What a run was begun with, in its folder: going on with something else is refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safelight.checkpoints.folders import read_json
from safelight.errors import RequestError
from safelight.printable import shown
from safelight.training import saving
from safelight.training.config.configs import Config
from safelight.training.recipes.job import Job
from safelight.training.settings import FREE, SCHEDULED
from safelight.version import __version__
from safelight.writing import make_folder, write_text

FILE = "run.json"
# What may change while a run goes on: it changes no number, or the loop itself watches over it.
_FREE = {"folder", "device", "export", "previews", "hint", "cache", "model.label", "control.keep"}
_FREE |= {f"data.{name}" for name in ("threads", "workers", "depth", "path")}
_FREE |= {f"training.{name}" for name in (*FREE, *SCHEDULED, "channels_last")}


def remember(folder: Path, config: Config, job: Job) -> None:
    """Write what a run is begun with, or compare it with what stands there.

    Raises RequestError naming each key that differs and would change the numbers; OutputError.
    """
    now: dict[str, Any] = {
        "safelight": __version__,
        "config": config.model_dump(mode="json"),
        "identity": dict(job.identity),
    }
    path = folder / FILE
    if path.is_file() and saving.checkpoints(folder):
        before = read_json(path)
        differing = _differing(before.get("config"), now["config"])
        differing += _differing(before.get("identity"), now["identity"])
        if differing:
            raise RequestError(
                f"{shown(folder)} was begun with something else: {'; '.join(differing[:8])}. Give "
                "the old values to go on, or a new folder to begin anew"
            )
    make_folder(folder)
    write_text(path, json.dumps(now, indent=1, ensure_ascii=False) + "\n")


def _differing(before: object, now: Mapping[str, Any]) -> list[str]:
    old, new = _flat(before if isinstance(before, dict) else {}), _flat(now)
    return [
        f"{key} was {shown(json.dumps(old.get(key)), 60)} and is {shown(json.dumps(value), 60)}"
        for key, value in new.items()
        if key in old and old[key] != value and not _is_free(key)
    ]


def _is_free(key: str) -> bool:
    parts = key.split(".")
    return any(".".join(parts[:depth]) in _FREE for depth in range(1, len(parts) + 1))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
