"""Files that are there whole or not at all."""

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from safelight.errors import OutputError


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file so that a crash, a full disk or Ctrl-C never leaves a part of it.

    The bytes go to a temporary file in the same folder, reach the disk, and take the name at once;
    until then an older file of that name stays as it was. Without `replace` an existing file is
    kept and FileExistsError raised. Raises OutputError naming folder and bytes.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        _write_and_sync(temporary, data)
        if replace:
            os.replace(temporary, path)
        else:
            _take_new_name(temporary, path)
        _sync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OutputError(
            f"cannot write {path.name} ({len(data)} bytes) in {path.parent.absolute()}: {reason}. "
            f"{'Free some space, or give' if full else 'Give'} another folder."
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {folder}: {error.strerror}; give another folder."
        ) from None


def _write_and_sync(path: Path, data: bytes) -> None:
    # O_EXCL: never follow a link that somebody laid at this name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _take_new_name(temporary: Path, path: Path) -> None:
    """Give the file its name unless the name is taken: a link refuses where a rename replaces."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: hold the name, then rename onto it
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable; systems that cannot open a folder do so on their own."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
