"""Folders of a server that hold so many bytes at most."""

from contextlib import suppress
from pathlib import Path


def make_room(folder: Path, size: int, most: int) -> None:
    """Remove the files that were not used for longest until `size` more bytes make `most`."""
    found = []
    for path in folder.iterdir():
        with suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    total = sum(bytes_ for _, bytes_, _ in found) + size
    for _, bytes_, path in sorted(found):
        if total <= most:
            break
        path.unlink(missing_ok=True)
        total -= bytes_
