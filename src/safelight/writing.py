"""Files and folders that are there whole or not at all."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from safelight.errors import OutputError
from safelight.printable import shown

PART = ".part"  # ends the name of a file that is being written


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file as `whole_file` does."""
    with whole_file(path, len(data), replace=replace) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 as `whole_file` does."""
    write_whole(path, text.encode("utf-8"))


@contextmanager
def whole_file(path: Path, size: int, *, replace: bool = True) -> Iterator[BinaryIO]:
    """A file of `size` bytes that a crash, a full disk or Ctrl-C never leaves half written.

    The bytes go to a temporary file in the same folder, reach the disk, and take the name at once;
    until then an older file of that name stays as it was. Without `replace` an existing file is
    kept and FileExistsError raised. Raises OutputError naming folder and bytes.
    """
    temporary = _temporary(path)
    with _told(path, size):
        try:
            # O_EXCL: never follow a link that somebody laid at this name
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(temporary, path)
            else:
                _take_new_name(temporary, path)
            _sync(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, size: int) -> Iterator[Path]:
    """A new folder to fill with `size` bytes, which takes its name only if that succeeds.

    Raises OutputError if there already is something of that name, or on a failure.
    """
    temporary = _temporary(path)
    with _told(path, size):
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise OutputError(f"{shown(path)} exists and is not empty; give a new folder")
        try:
            temporary.mkdir()
            yield temporary
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing, in a folder and below.

    Only for folders that one process alone writes to: another one's unfinished files look the same.
    """
    for path in folder.rglob(f".*{PART}"):
        if len(path.name) == len(_temporary(path).name):
            with suppress(OSError):
                path.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {shown(folder)}: {error.strerror}; give another folder."
        ) from None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(8)}{PART}")


@contextmanager
def _told(path: Path, size: int) -> Iterator[None]:
    """Turn a failure of the disk into an OutputError; refuse at once what cannot fit."""
    what = f"cannot write {shown(path.name)} ({size} bytes) in {shown(path.parent.absolute())}"
    try:
        free = shutil.disk_usage(path.parent).free
        if size > free:
            raise OutputError(f"{what}: {free} are free. Free some space, or give another folder.")
        yield
    except FileExistsError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OutputError(
            f"{what}: {error.strerror or type(error).__name__}. "
            f"{'Free some space, or give' if full else 'Give'} another folder."
        ) from None


def _take_new_name(temporary: Path, path: Path) -> None:
    """Give the file its name unless the name is taken: a link refuses where a rename replaces."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: hold the name, then rename onto it
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(temporary, path)


def _sync(folder: Path) -> None:
    """Make the new name itself durable; systems that cannot open a folder do so on their own."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
