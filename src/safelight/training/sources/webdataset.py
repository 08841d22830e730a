"""WebDataset shards: plain tar files in which files of one key are one example.

A shard's headers are read once, for the places of its files; from then on every example is read by
itself, in any order. A key is the path up to the first dot of the file's name (cat.json, cat.png).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path

from safelight.errors import FileError
from safelight.printable import shown
from safelight.training.pictures import SUFFIXES
from safelight.training.sources.example import (
    Example,
    Problem,
    Source,
    captions_of,
    checked_index,
    weight_of,
)
from safelight.training.sources.tar_index import Identity, TarEntry, read_entry, tar_index

TEXT_LIMIT = 4 * 2**20  # bytes of one .txt or .json
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class Member:
    """The files of one key: the number of its shard, and where picture and texts lie in it."""

    shard: int
    key: str
    picture: tuple[int, int]  # first byte, length
    texts: tuple[tuple[str, int, int], ...]  # suffix, first byte, length


@dataclass(frozen=True)
class Shards:
    """The examples of tar shards, in the shards' order; see `open_shards`."""

    paths: tuple[Path, ...]
    identities: tuple[Identity, ...]
    members: tuple[Member, ...]
    problems: tuple[Problem, ...] = field(default=())
    caption: str | None = None

    @property
    def name(self) -> str:
        return str(self.paths[0].parent if len(self.paths) > 1 else self.paths[0])

    @property
    def counts(self) -> list[int]:
        """How many examples each shard has."""
        counts = [0] * len(self.paths)
        for member in self.members:
            counts[member.shard] += 1
        return counts

    def __len__(self) -> int:
        return len(self.members)

    def example(self, index: int) -> Example:
        """One example. Raises FileError if its texts cannot be read."""
        member = self.members[checked_index(index, len(self))]
        read = partial(read_entry, self.paths[member.shard], self.identities[member.shard])
        where = f"{self.paths[member.shard]}: {member.key}"
        captions: tuple[str, ...] = ()
        fields: dict[str, object] = {}
        for suffix, start, length in member.texts:
            if length > TEXT_LIMIT:
                raise FileError(f"{shown(where)}{suffix} has more than {TEXT_LIMIT} bytes")
            text = _text(read(start, length), where + suffix)
            if suffix == ".json":
                fields = _fields(text, where)
            else:
                captions = tuple(line.strip() for line in text.splitlines() if line.strip())
        if not captions or self.caption is not None:
            captions = captions_of(fields, self.caption)
        picture = partial(read, *member.picture)
        shard = self.paths[member.shard].absolute()
        stamp = f"{shard} {self.identities[member.shard]} {member.picture}"
        return Example(member.key, picture, captions, weight_of(fields), fields, stamp)


def open_shards(paths: Sequence[Path], *, caption: str | None = None) -> Shards:
    """The examples of tar shards: KEY.png (.jpg, .webp, ...) with KEY.txt or KEY.json.

    A text's lines are its captions; of a JSON object, the field `caption`, or the first of the
    usual names; all its fields are kept. A damaged shard gives what lies before the damage, and a
    problem. Raises FileError if one is no plain tar archive.
    """
    members: list[Member] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    identities = []
    for number, path in enumerate(paths):
        index = tar_index(path)
        identities.append(index.identity)
        if index.fault is not None:
            problems.append(Problem("unreadable shard", str(path), index.fault))
        for key, files in _groups(index.entries):
            found = _member(number, key, files)
            if found is None:
                why = "a key without a picture"
                problems.append(Problem("missing picture", f"{path}: {key}", why))
            elif key in seen:
                why = "another example has this key; the first one is kept"
                problems.append(Problem("duplicate id", f"{path}: {key}", why))
            else:
                seen.add(key)
                members.append(found)
    return Shards(tuple(paths), tuple(identities), tuple(members), tuple(problems), caption)


def shard_paths(name: str) -> list[Path]:
    """The shards that a name stands for: a .tar, a folder of them, or names{000..005}.tar.

    Raises FileError if there are none, or some of a range are missing.
    """
    found = _RANGE.search(name)
    if found is not None and not Path(name).exists():
        first, last, width = int(found[1]), int(found[2]), len(found[1])
        if last - first >= 1_000_000:
            raise FileError(f"{shown(name)} names more than a million shards")
        paths = [
            Path(f"{name[: found.start()]}{number:0{width}}{name[found.end() :]}")
            for number in range(first, last + 1)
        ]
        missing = [path for path in paths if not path.is_file()]
        if missing or not paths:
            what = shown(missing[0]) if missing else "a range that ends before it begins"
            raise FileError(f"{shown(name)}: {len(missing)} shards are missing ({what})")
        return paths
    path = Path(name)
    paths = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not paths:
        raise FileError(f"{shown(path)} has no .tar shards")
    return paths


def shares(counts: Sequence[int], parts: int) -> list[list[range]]:
    """Which examples each of several readers takes: together all, none twice.

    Whole shards are dealt out in turn, so each reader goes through its own from front to back. If
    there are fewer shards than readers, every shard is cut into as many runs as it takes.
    """
    ends = list(accumulate(counts))
    shards = [range(end - count, end) for count, end in zip(counts, ends, strict=True) if count]
    if len(shards) < parts:
        total = ends[-1] if ends else 0
        return [[range(total * i // parts, total * (i + 1) // parts)] for i in range(parts)]
    return [shards[part::parts] for part in range(parts)]


def read_share(
    source: Source,
    counts: Sequence[int],
    *,
    rank: int,
    ranks: int,
    worker: int = 0,
    workers: int = 0,
) -> Iterator[Example]:
    """The examples of one worker of one rank, from front to back; 0 workers: the rank reads itself.

    Made for passes that touch every example once, such as filling a cache. Shards are dealt to
    ranks first and then to their workers.
    """
    runs = shares(counts, ranks)[rank]
    places = [index for run in runs for index in run]
    for run in shares([len(run) for run in runs], max(1, workers))[worker]:
        for place in run:
            yield source.example(places[place])


def _split(name: str) -> tuple[str, str]:
    """The key and the suffix of a file in a shard; no key for what is no part of an example."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, dot, suffix = base.partition(".")
    if not stem or stem.startswith("__"):  # hidden files, and __url__ and the like
        return "", ""
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()


def _groups(entries: Sequence[TarEntry]) -> Iterator[tuple[str, dict[str, TarEntry]]]:
    """Neighbours of one key, by suffix; a suffix that comes again begins another example."""
    last, files = "", dict[str, TarEntry]()
    for entry in entries:
        key, suffix = _split(entry.name)
        if key != last or suffix in files:
            if last:
                yield last, files
            last, files = key, {}
        files[suffix] = entry
    if last:
        yield last, files


def _member(shard: int, key: str, files: Mapping[str, TarEntry]) -> Member | None:
    picture = None
    texts = []
    for suffix, entry in files.items():
        if suffix in SUFFIXES:
            picture = picture or (entry.start, entry.length)
        elif suffix in (".txt", ".json"):
            texts.append((suffix, entry.start, entry.length))
    return None if picture is None else Member(shard, key, picture, tuple(texts))


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FileError(f"{shown(where)} is not UTF-8") from None


def _fields(text: str, where: str) -> dict[str, object]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise FileError(f"{shown(where)}.json is not JSON") from None
    if not isinstance(fields, dict):
        raise FileError(f"{shown(where)}.json is not a JSON object")
    return fields
