"""What an engine found out and keeps for later runs: numbers and names as JSON, never code.

A note lies in a folder that is this user's alone. Its first line is the hash of the rest. A note
that is damaged, too large or open to others counts as none.
"""

import json
from pathlib import Path
from typing import Any

from safelight.engines.private_folder import check_private, digest, private_folder
from safelight.errors import FileError, OutputError
from safelight.writing import write_whole

SUFFIX = ".json"
LARGEST = 64 * 2**20  # bytes


def note_of(folder: str, key: str) -> Any:
    """What was kept under a key in a folder of Safelight's cache; None if nothing sound was."""
    try:
        path = private_folder(folder) / f"{key}{SUFFIX}"
        check_private(path)
        if path.stat().st_size > LARGEST:
            return None
        noted, _, data = path.read_bytes().partition(b"\n")
    except (OSError, FileError, OutputError):
        return None
    if noted != digest(data).encode():
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def keep_note(folder: str, key: str, told: object, most: int) -> None:
    """Keep it, whole or not at all, and let go of the oldest notes past `most` in that folder.

    Where it cannot be kept it is found out anew the next time.
    """
    data = json.dumps(told, separators=(",", ":")).encode()
    try:
        room = private_folder(folder)
        path = room / f"{key}{SUFFIX}"
        write_whole(path, digest(data).encode() + b"\n" + data)
        path.chmod(0o600)
        _tidied(room, most)
    except (OSError, FileError, OutputError):
        return


def _tidied(room: Path, most: int) -> None:
    notes = sorted(room.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
    for old in notes[:-most]:
        old.unlink(missing_ok=True)
