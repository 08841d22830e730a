"""One picture with its texts, and what every source of them offers."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

from safelight.errors import FileError
from safelight.printable import shown

Kind = Literal[
    "broken picture",
    "missing picture",
    "missing caption",
    "unreadable caption",
    "duplicate id",
    "unreadable shard",
    "outside the folder",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
CAPTION_NAMES = ("captions", "caption", "text", "texts", "prompt", "txt")  # fields, best first


@dataclass(frozen=True, slots=True)
class Example:
    """A picture that is read when asked for, and what is said of it.

    id: unique in its source. captions: one is chosen at each draw; none if nothing is said.
    weight: how often it is drawn beside an example of weight 1. fields: whatever else the source
    says, for templates. stamp: changes when the picture's file does; empty if that is not known.
    """

    id: str
    read: Callable[[], bytes]  # the bytes of the picture's file; FileError if they cannot be read
    captions: tuple[str, ...] = ()
    weight: float = 1.0
    fields: Mapping[str, object] = field(default_factory=dict)
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot be trained on: what it is, which file or id, and why in words."""

    kind: Kind
    where: str
    why: str

    def __str__(self) -> str:
        return f"{shown(self.where)}: {self.kind} ({shown(self.why)})"


class Source(Protocol):
    """Examples by number, in an order that does not change."""

    @property
    def name(self) -> str:
        """What messages call it: its path."""
        ...

    @property
    def problems(self) -> Sequence[Problem]:
        """What was found while listing and is not among the examples."""
        ...

    def __len__(self) -> int: ...

    def example(self, index: int) -> Example: ...


@dataclass(frozen=True)
class Chosen:
    """Some examples of a source, in the given order."""

    source: Source
    indices: Sequence[int]

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def problems(self) -> Sequence[Problem]:
        return self.source.problems

    def __len__(self) -> int:
        return len(self.indices)

    def example(self, index: int) -> Example:
        return self.source.example(self.indices[index])


@dataclass(frozen=True)
class Joined:
    """Several sources as one; ids are told apart by the name given to each source."""

    parts: Mapping[str, Source]

    @property
    def name(self) -> str:
        return " + ".join(part.name for part in self.parts.values())

    @property
    def problems(self) -> Sequence[Problem]:
        return tuple(problem for part in self.parts.values() for problem in part.problems)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts.values())

    def example(self, index: int) -> Example:
        for label, part in self.parts.items():
            if index < len(part):
                found = part.example(index)
                return replace(found, id=f"{label}/{found.id}")
            index -= len(part)
        raise IndexError(index)


def captions_of(fields: Mapping[str, object], column: str | None = None) -> tuple[str, ...]:
    """The captions among the fields of a record: those of `column`, or of the first usual name.

    A caption is a text, or a list of texts; blanks around them and empty ones are left out.
    """
    names = CAPTION_NAMES if column is None else (column,)
    for name in names:
        if name in fields:
            value = fields[name]
            values = [value] if isinstance(value, str) else value
            if isinstance(values, Sequence):
                texts = (v.strip() for v in values if isinstance(v, str))
                return tuple(text for text in texts if text)
    return ()


def weight_of(fields: Mapping[str, object]) -> float:
    """The field `weight` if it is a number from 0 to 1000, else 1."""
    value = fields.get("weight")
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1000
    return float(value) if usable else 1.0  # type: ignore[arg-type]


def counted(problems: Iterable[Problem]) -> dict[Kind, int]:
    """How many problems of each kind, in the order of `KINDS`; kinds without any are left out."""
    counts = Counter(problem.kind for problem in problems)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def summary(problems: Sequence[Problem], *, named: int = 3) -> str:
    """Problems on one line: each kind with its count and the first few of its files."""
    parts = []
    for kind, count in counted(problems).items():
        first = [shown(p.where, 80) for p in problems if p.kind == kind][:named]
        more = ", ..." if count > named else ""
        parts.append(f"{count} {kind} ({', '.join(first)}{more})")
    return "; ".join(parts)


def without_duplicates(examples: Iterable[Example]) -> tuple[list[Example], list[Problem]]:
    """The first example of each id, and a problem for each later one."""
    kept: dict[str, Example] = {}
    problems = []
    for example in examples:
        if example.id in kept:
            why = "another picture has this id; the first one is kept"
            problems.append(Problem("duplicate id", example.id, why))
        else:
            kept[example.id] = example
    return list(kept.values()), problems


def checked_index(index: int, length: int) -> int:
    """The index, or IndexError: sources are not indexed from the end."""
    if not 0 <= index < length:
        raise IndexError(f"example {index} of {length}")
    return index


def unreadable(where: str, error: Exception) -> FileError:
    """A FileError that a file cannot be read."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return FileError(f"{shown(where)} cannot be read: {shown(reason or type(error).__name__)}")
