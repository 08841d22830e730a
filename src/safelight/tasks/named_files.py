"""The files that a request names, wherever in it: by role, to be found, renamed and remembered."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from safelight.tasks.large import is_plain
from safelight.tasks.settings import Settings

# Roles of pictures: remembered by their pixels. All others are weights, remembered by their file.
PICTURES = frozenset(
    {
        "source",
        "mask",
        "depth",
        "control picture",
        "image prompt",
        "image prompt mask",
        "reference",
        "region mask",
    }
)

S = TypeVar("S", bound=Settings)


class NamedFile(NamedTuple):
    """One file of a request.

    role: "model", "source", "control", ...; the second of a role is "control 2".
    place: the setting that names it, as messages say it: "source.picture".
    """

    role: str
    name: str
    place: str

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture, and no weights."""
        return is_picture(self.role)


def is_picture(role: str) -> bool:
    """Whether files of this role are pictures, and no weights."""
    return role.rstrip(" 0123456789") in PICTURES


def named_files(settings: Settings) -> list[NamedFile]:
    """The files that settings name, in a fixed order; roles are numbered from the second on."""
    count: dict[str, int] = {}
    found = []
    for role, name, place in _walk(settings, ""):
        count[role] = count.get(role, 0) + 1
        found.append(NamedFile(role if count[role] == 1 else f"{role} {count[role]}", name, place))
    return found


def renamed(settings: S, name: Callable[[NamedFile], str]) -> S:
    """The same settings with other names for their files. Raises RequestError."""
    return _renamed(settings, iter([name(file) for file in named_files(settings)]))


def _walk(settings: Settings, place: str) -> Iterator[tuple[str, str, str]]:
    for field, value in settings:
        here = f"{place}{field}"
        if field in settings.roles:
            for name in _names(settings.roles[field], value):
                yield settings.roles[field], name, here
        else:
            for number, group in _groups(value):
                yield from _walk(group, f"{here}{number}.")


def _renamed(settings: S, names: Iterator[str]) -> S:
    changes: dict[str, object] = {}
    for field, value in settings:
        if field in settings.roles:
            if isinstance(value, tuple):
                changes[field] = tuple(next(names) for _ in value)
            elif _names(settings.roles[field], value):
                changes[field] = next(names)
        elif isinstance(value, Settings):
            changes[field] = _renamed(value, names)
        elif isinstance(value, tuple) and _groups(value):
            changes[field] = tuple(_renamed(group, names) for group in value)
    return settings.replace(**{k: v for k, v in changes.items() if v != getattr(settings, k)})


def _names(role: str, value: object) -> list[str]:
    """The files that a setting names; an upscaler may be one by name, without a file."""
    if value is None or (role == "upscaler" and is_plain(str(value))):
        return []
    return [str(name) for name in value] if isinstance(value, tuple) else [str(value)]


def _groups(value: object) -> list[tuple[str, Settings]]:
    """The groups that a setting holds, each with what tells it from its neighbours."""
    if isinstance(value, Settings):
        return [("", value)]
    if isinstance(value, tuple):
        return [(f".{i}", item) for i, item in enumerate(value) if isinstance(item, Settings)]
    return []
