"""What was understood of another program's settings, and what was not."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from safelight.errors import RequestError
from safelight.tasks.complaint import echo
from safelight.tasks.named_files import renamed
from safelight.tasks.recipe import bare_name
from safelight.tasks.request import Request

HEX = frozenset("0123456789abcdef")
SHORTEST = 8  # digits of a hash; fewer prove nothing
HASHES_LIMIT = 20_000  # characters
NOTE_LIMIT = 100  # notes of one picture; a hostile one could ask for millions

# Settings whose values must be known by name; in the order in which one needs the other.
NAMED = ("sampler", "schedule", "sampler_options", "schedule_options")
FILES = ("model", "vae")
FIRST = ("source", "regions")  # what others are nothing without


@dataclass
class Notes:
    """What a person should know about a reading: grows while a picture's settings are read."""

    lines: list[str] = field(default_factory=list)
    surplus: int = 0

    def add(self, line: str) -> None:
        """Keep a note once, without control characters; beyond `NOTE_LIMIT` only count it."""
        line = "".join(c if c.isprintable() else "?" for c in line)
        if line in self.lines:
            return
        if len(self.lines) < NOTE_LIMIT:
            self.lines.append(line)
        else:
            self.surplus += 1

    def left_out(self, name: str, value: object) -> None:
        """Note a setting that has no counterpart here."""
        told = f" {echo(value)}" if not isinstance(value, list | dict) else ""
        self.add(f"{_plain(name)}{told} has no counterpart here and was left out.")

    def told(self) -> tuple[str, ...]:
        """All notes, and how many more there were."""
        more = (f"{self.surplus} more notes are not shown.",) if self.surplus else ()
        return (*self.lines, *more)


@dataclass(frozen=True, slots=True)
class StatedHash:
    """The beginning of the hash of a LoRA or learned word, by the name that a prompt says."""

    role: str  # "lora" or "embedding"
    name: str
    digest: str  # hex digits


@dataclass(frozen=True)
class Reading:
    """A program's settings in our words."""

    source: str  # the program
    request: Request | None  # None: what was found draws nothing
    notes: tuple[str, ...] = ()
    model_hash: str | None = None  # as the program tells it; its kind differs by program
    hashes: tuple[StatedHash, ...] = ()


def settled(settings: Mapping[str, object], notes: Notes) -> Request | None:
    """The request of all settings that are in range and known; notes tell the others.

    A value None counts as not given. Of files only the bare name is kept: a picture from somebody
    else may not choose which path is opened. None if not even a prompt is left.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    kept: dict[str, object] = {}
    for name in sorted(given, key=lambda name: name not in FIRST):
        value = given[name]
        if name in NAMED:
            continue
        if name in FILES and isinstance(value, str):
            value = bare_name(value[:4096])
        try:
            beside = {other: kept[other] for other in FIRST if other in kept}
            Request.parse({"prompt": "", **beside, name: value}, check_names=False)
        except RequestError as error:
            notes.add(f"{error} It was left out.")
        else:
            kept[name] = value
    try:
        request = renamed(Request.parse(kept), lambda file: bare_name(file.name))
        for name in NAMED:
            if name in given:
                request = _with(request, name, given[name], notes)
    except RequestError as error:
        notes.add(f"no picture can be drawn from this: {error}")
        return None
    return request


def _with(request: Request, name: str, value: object, notes: Notes) -> Request:
    try:
        return request.replace(**{name: value}).with_known_names()
    except RequestError as error:
        notes.add(f"{error} It was left out.")
        return request


def stated_hashes(role: str, text: str) -> tuple[StatedHash, ...]:
    """Those of A1111's lists: "style: 1b2c3d4e5f6a, other: 0a1b2c3d4e5f"."""
    pairs = (part.rpartition(":") for part in text[:HASHES_LIMIT].split(","))
    found = ((name.strip(), digest.strip().lower().removeprefix("0x")) for name, _, digest in pairs)
    return tuple(
        StatedHash(role, name, digest)
        for name, digest in found
        if name and SHORTEST <= len(digest) <= 64 and set(digest) <= HEX
    )


def _plain(name: str) -> str:
    """A foreign name, safe to print: short, on one line."""
    return "".join(c if c.isprintable() else "?" for c in name[:60])
