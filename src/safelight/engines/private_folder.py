"""A folder that nobody else can write to, for what engines compile and remember.

A compiled graph is machine code: whoever loads it runs it. So it is taken only from a folder that
belongs to this user, that nobody else may write to or list, and only as a plain file that belongs
to this user, too, and whose hash is that noted when it was made. The hash finds damage, and not a
thief: somebody who may write to the folder could write the hash as well, but could also replace
this program. Nothing is ever compiled from, or loaded from, a folder that programs share.
"""

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safelight.errors import FileError
from safelight.printable import shown
from safelight.writing import make_folder

ROOM = "making-"  # how the names of folders to compile in begin
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def private_folder(name: str) -> Path:
    """The folder of this name in Safelight's cache, made if it is missing; mode 0700.

    SAFELIGHT_CACHE overrides where the cache is. Raises OutputError if it cannot be made, and
    FileError if it belongs to another user or others may enter it.
    """
    folder = _cache() / name
    if not folder.exists():
        make_folder(folder.parent)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass  # another process made it meanwhile: it is judged below
        except OSError:
            make_folder(folder)
    check_private(folder)
    return folder


def check_private(path: Path) -> None:
    """Raise FileError unless the folder or plain file is this user's, and only this user's."""
    try:
        found = path.lstat()
    except OSError as error:
        raise FileError(f"cannot read {shown(path)}: {error.strerror}") from None
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        raise FileError(f"{shown(path)} is neither a folder nor a plain file; remove it")
    if sys.platform == "win32":  # a profile's folders are its user's; modes say nothing there
        return
    if found.st_uid != os.geteuid():
        raise FileError(
            f"{shown(path)} belongs to another user, and compiled code is taken from nobody else; "
            "remove it, or name another folder by SAFELIGHT_CACHE"
        )
    if found.st_mode & OTHERS:
        raise FileError(
            f"{shown(path)} is open to other users, and compiled code lies there; "
            f"close it (chmod go= {shown(path)}), or name another folder by SAFELIGHT_CACHE"
        )


@contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """A new folder inside a private one, to compile in; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=ROOM, dir=folder) as made:
        yield Path(made)


def digest(data: bytes) -> str:
    """SHA-256, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def _cache() -> Path:
    if chosen := os.environ.get("SAFELIGHT_CACHE"):
        return Path(chosen)
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "safelight"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home) / "safelight" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "safelight"
