"""Finished maps in a folder, each with the name of its picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from safelight.errors import FileError
from safelight.printable import shown
from safelight.training.buckets import Placement
from safelight.training.cache import content_hash
from safelight.training.pictures import SUFFIXES, upright_size
from safelight.training.sources.example import Example, Problem, Source
from safelight.training.sources.folder import read_file

_NAMED = 5  # files that one message names


@dataclass(frozen=True)
class MapFiles:
    """A `Source` of maps, one for each picture of another source and in its order.

    digest: a hash of the bytes of all files that were opened together.
    """

    folder: Path
    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    digest: str

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def problems(self) -> Sequence[Problem]:
        return ()

    def __len__(self) -> int:
        return len(self.paths)

    def like(self, source: Source) -> "MapFiles":
        """Those of some of the pictures, in the order of their source."""
        known = dict(zip(self.ids, self.paths, strict=True))
        ids = tuple(source.example(i).id for i in range(len(source)))
        return replace(self, ids=ids, paths=tuple(known[name] for name in ids))

    def example(self, index: int) -> Example:
        path = self.paths[index]
        return Example(self.ids[index], partial(read_file, path), stamp=str(path))


def open_maps(
    folder: Path, sources: Sequence[Source], places: Sequence[Placement], *, word: str = "map"
) -> MapFiles:
    """The maps of the pictures of these sources: in the folder, with the picture's id as name.

    A picture's id is its path below its own folder, without suffix; the suffix of the map may be
    another. word: what messages call a map. Raises FileError for a folder that is none, for
    pictures without a map, and for a map of another size than its picture, which would not lie on
    it.
    """
    if not folder.is_dir():
        raise FileError(f"{shown(folder)} is not a folder of {word}s")
    ids = tuple(source.example(i).id for source in sources for i in range(len(source)))
    found = [_found(folder, name) for name in ids]
    lost = [name for name, path in zip(ids, found, strict=True) if path is None]
    if lost:
        more = ", ..." if len(lost) > _NAMED else ""
        raise FileError(
            f"{len(lost)} of {len(ids)} pictures have no {word} in {shown(folder)}: "
            f"{', '.join(shown(name, 60) for name in lost[:_NAMED])}{more}; each {word} has the "
            f"name of its picture, and one of {', '.join(sorted(SUFFIXES))}"
        )
    paths = tuple(path for path in found if path is not None)
    hashes = []
    for path, place in zip(paths, places, strict=True):
        data = read_file(path)
        size = upright_size(data, str(path))
        if size != place.original:
            raise FileError(
                f"the {word} {shown(path)} is {size[0]}x{size[1]} and its picture "
                f"{place.original[0]}x{place.original[1]}; give {word}s of the size of their "
                "pictures"
            )
        hashes.append(content_hash(data))
    return MapFiles(folder, ids, paths, content_hash(" ".join(sorted(hashes))))


def _found(folder: Path, name: str) -> Path | None:
    """The map of a picture; None if there is none, or its name leads out of the folder."""
    for suffix in sorted(SUFFIXES):
        for ending in (suffix, suffix.upper()):
            path = folder / f"{name}{ending}"
            try:
                if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
                    return path
            except (OSError, ValueError):  # ValueError: a NUL in an id of a table
                return None
    return None
