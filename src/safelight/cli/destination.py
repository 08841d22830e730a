"""Where pictures go: a folder or one new file, checked before anything is drawn."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from safelight.errors import OutputError, RequestError
from safelight.tasks.picture import FORMATS, Picture
from safelight.writing import make_folder

# Suffixes of pictures that we do not write: certainly no names of folders.
OTHER_FORMATS = frozenset(
    {".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jxl", ".jp2", ".ppm", ".tga", ".svg"}
)
LOSSLESS = frozenset({".png"})


@dataclass(frozen=True)
class Destination:
    """A folder of pictures, or the file of a single one."""

    folder: Path
    name: str | None  # of a single picture; None: each gets a name of its own
    suffix: str
    quality: int | None = None
    metadata: bool = True

    def save(self, picture: Picture) -> Path:
        """Write a picture under a name that is not taken. Raises OutputError."""
        if self.name is None:
            return picture.save_new(
                self.folder, suffix=self.suffix, metadata=self.metadata, quality=self.quality
            )
        path = self.folder / self.name
        try:
            return picture.save(path, metadata=self.metadata, quality=self.quality, replace=False)
        except FileExistsError:
            raise OutputError(f"{taken(path)}.") from None


def destination(
    out: Path, *, format: str | None, quality: int | None, metadata: bool, pictures: int
) -> Destination:
    """Where `pictures` pictures go.

    Raises RequestError for a format we do not write, a file that exists, one file for several
    pictures, or a quality that makes no difference.
    """
    suffix = None if format is None else f".{format.lower().lstrip('.')}"
    if suffix is not None and suffix not in FORMATS:
        raise RequestError(f"--format must be png, jpg or webp; got {format!r}.")
    named = out.suffix.lower()
    if named in OTHER_FORMATS and not out.is_dir():
        raise RequestError(
            f"--out {out} is none of {', '.join(FORMATS)}, which we write; name such a file, or a "
            "folder."
        )
    single = named in FORMATS and not out.is_dir()
    if single and pictures > 1:
        raise RequestError(
            f"--out {out} is one file and {pictures} pictures were asked for; name a folder."
        )
    if single and suffix is not None and FORMATS[suffix] != FORMATS[named]:
        raise RequestError(f"--out {out} and --format {format} differ; give one of them.")
    if single and out.exists():
        raise RequestError(f"--out {taken(out)}, or a folder.")
    if not single and out.exists() and not out.is_dir():
        raise RequestError(f"--out {out} is a file, but not a picture's; name a folder.")
    kind = named if single else suffix or ".png"
    if quality is not None and not 1 <= quality <= 100:
        raise RequestError(f"--quality must be from 1 to 100; got {quality}.")
    if quality is not None and kind in LOSSLESS:
        raise RequestError("--quality is for JPEG and WebP; PNG loses nothing. Leave it out.")
    folder, name = (out.parent, out.name) if single else (out, None)
    return Destination(folder, name, kind, quality, metadata)


def taken(path: Path) -> str:
    """That a file exists, and what to do; without a full stop."""
    return f"{path} exists already, and nothing is ever replaced; name another file"


@contextmanager
def prepared(folder: Path) -> Iterator[None]:
    """A folder that can be written to; one made for this is removed again if it stays empty.

    Raises OutputError before anything is drawn if there can be no such folder.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        make_folder(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(
                f"the folder {folder} cannot be written to; give another or change its permissions."
            )
        yield
    finally:
        for path in missing:  # the innermost first; one that holds something stays
            with suppress(OSError):
                path.rmdir()
