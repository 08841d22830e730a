"""What a server and its replicas say to each other: texts, numbers and bytes, nothing that runs.

Paths of weights are those that the server's own lists hold, so replicas see the same folders;
pictures travel as the bytes of their files, and no path of a client exists anywhere.
"""

import json
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from safelight.errors import FileError
from safelight.server.jobs import Failure, Job
from safelight.server.painter import At, Portion, Turn
from safelight.tasks.picture import Picture
from safelight.tasks.recipe import Recipe
from safelight.tasks.request import Request


@dataclass(frozen=True, slots=True)
class SentPortion:
    """A `Portion`. request: JSON of what was set. pictures: name and bytes of each file, by id."""

    job: str
    door: str
    request: str
    indices: tuple[int, ...]
    names: Mapping[str, str]
    pictures: Mapping[str, tuple[str, bytes]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SentTurn:
    """A `Turn`. number: of this turn among those of one replica. model: JSON of its key."""

    number: int
    model: str
    portions: tuple[SentPortion, ...]


@dataclass(frozen=True, slots=True)
class Begun:
    """The first word of a replica on whatever it is asked for. process: its id."""

    process: int


@dataclass(frozen=True, slots=True)
class Alive:
    """Nothing happened for a while, and the replica is there."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a job's pictures was taken."""

    job: str
    at: At


@dataclass(frozen=True, slots=True)
class Pixels:
    """A finished picture: its raw RGB bytes, its recipe as JSON of what was set."""

    job: str
    index: int
    height: int
    width: int
    pixels: bytes = field(repr=False)
    recipe: str = field(repr=False)
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Taught:
    """The finished picture of a job that teaches, and its `Lesson`: told as JSON, and pictures."""

    picture: Pixels
    told: str = field(repr=False)
    shown: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Given:
    """Nothing more will come of a job."""

    job: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class Over:
    """The last word: all that was asked for is done, or failed as it was told.

    models: JSON of the keys of what is in memory; size: its bytes. hits, misses: turns whose model
    was there, and those for which one was read. fault: why a model could not be read.
    """

    models: tuple[str, ...] = ()
    hits: int = 0
    misses: int = 0
    size: int = 0
    fault: Failure | None = None


Message = Begun | Alive | Step | Pixels | Taught | Given | Over


def key_text(key: Hashable) -> str:
    """The key of a model as JSON; `key_of` reads it."""
    return json.dumps(key)


def key_of(text: str) -> Hashable:
    """The key of a model: texts, numbers, truths and None, in tuples."""
    return _frozen(json.loads(text))


def _frozen(value: object) -> Hashable:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    assert value is None or isinstance(value, str | int | float | bool)
    return value


def request_text(request: Request) -> str:
    """A request as JSON of what was set in it."""
    return json.dumps(request.model_dump(mode="json", exclude_unset=True))


def request_from(text: str) -> Request:
    """The request of such a text."""
    return Request(**json.loads(text))


def sent_portion(portion: Portion) -> SentPortion:
    """A portion to be sent. Raises FileError for a picture that has gone since."""
    return SentPortion(
        portion.job.id,
        portion.job.door,
        request_text(portion.request),
        tuple(portion.indices),
        dict(portion.names),
        dict(_files(portion)),
    )


def _files(portion: Portion) -> Iterator[tuple[str, tuple[str, bytes]]]:
    for id, path in portion.pictures.items():
        try:
            yield id, (path.name, path.read_bytes())
        except OSError:
            raise FileError(f"the picture {id} cannot be read any more.") from None


def received(sent: SentTurn, folder: Path) -> Turn:
    """The turn that was sent, its pictures in a folder of its own."""
    portions = []
    for number, one in enumerate(sent.portions):
        pictures = {}
        for place, (id, (name, data)) in enumerate(one.pictures.items()):
            path = folder / f"{number}-{place}" / Path(name).name
            path.parent.mkdir()
            path.write_bytes(data)
            pictures[id] = path
        request = request_from(one.request)
        job = Job(one.job, "", request, door=one.door)
        portions.append(Portion(job, request, one.indices, one.names, pictures))
    return Turn(tuple(portions), key_of(sent.model))


def sent_picture(job: str, index: int, picture: Picture) -> Pixels:
    """A finished picture to be sent."""
    height, width, _ = picture.pixels.shape
    recipe = json.dumps(picture.recipe.model_dump(mode="json", exclude_unset=True))
    data = np.ascontiguousarray(picture.pixels).tobytes()
    return Pixels(job, index, height, width, data, recipe, picture.warnings)


def picture_from(sent: Pixels) -> Picture:
    """The finished picture that was sent."""
    pixels = np.frombuffer(sent.pixels, np.uint8).reshape(sent.height, sent.width, 3)
    return Picture(pixels, Recipe(**json.loads(sent.recipe)), sent.warnings)
