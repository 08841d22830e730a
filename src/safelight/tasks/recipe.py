"""What drew one picture: its request, the files, the software and the result, as one JSON value.

Two recipes with the same request, files and software promise the same pixels on the same kind of
machine. Where a redrawn picture differs, `explain` says which file, setting or version is to blame.
"""

import hashlib
import json
import platform
from collections.abc import Iterator
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from safelight.errors import FileError, RequestError
from safelight.tasks.bounded_json import Json, as_object, parse_json
from safelight.tasks.complaint import echo
from safelight.tasks.named_files import renamed
from safelight.tasks.request import Request
from safelight.tasks.settings import NUMBER, TEXT, FileName, Name, Settings

VERSION = 1  # the only one so far; also the literal of Recipe.version
JSON_LIMIT = 1_000_000  # characters; a recipe without its prompt takes about 3,000
FILE_LIMIT = 256
NO_MATTER = frozenset({"request.offload"})  # what is in memory when

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, Field(max_length=2000), TEXT]


class UsedFile(Settings):
    """A file whose content decided the picture.

    content: what `sha256` is of: the whole file, or a picture's pixels (see `pixels_sha256`), which
        any file that shows the same picture has.
    tensors_sha256: of a safetensors file of a LoRA without its header, by which A1111 knows it.
    """

    place = "files."
    role: Name  # model, vae, source, mask, control, ...
    name: FileName  # without folders: a recipe travels with its picture
    sha256: Sha256
    size: Annotated[int, Field(ge=0, lt=2**63), NUMBER]  # bytes
    content: Literal["file", "pixels"] = "file"
    tensors_sha256: Sha256 | None = None


class Software(Settings):
    """What computed the picture."""

    place = "software."
    safelight: Line
    torch: Line
    python: Line
    device: Line  # the device's own name, such as the processor's
    dtype: Name
    threads: Annotated[int, Field(ge=1, le=65536), NUMBER]

    @classmethod
    def here(cls, *, torch: str, device: str, dtype: str, threads: int) -> Self:
        """This installation of Safelight and Python, with what the caller knows of torch."""
        from safelight.version import __version__

        python = platform.python_version()
        return cls(
            safelight=__version__,
            torch=torch,
            python=python,
            device=device,
            dtype=dtype,
            threads=threads,
        )


class Figure(Settings):
    """Something measured on the picture, such as its seam or a score."""

    place = "result.figures."
    name: Line
    value: Annotated[float, Field(ge=-1e12, le=1e12), NUMBER]
    words: Line = ""  # what it means


class Result(Settings):
    """What came out.

    size: width and height of the picture where they are not those of the request, which is what
        was worked on.
    """

    place = "result."
    pixels_sha256: Sha256
    steps: Annotated[int, Field(ge=0, le=100_000), NUMBER]  # really run
    sampler: Name
    schedule: Name
    warnings: Annotated[tuple[Line, ...], Field(max_length=100)] = ()
    size: tuple[int, int] | None = None
    figures: Annotated[tuple[Figure, ...], Field(max_length=1000)] = ()


class Recipe(Settings):
    """All that is needed to draw exactly one picture again.

    `seconds` is told but is no part of the recipe's identity: see `differences`.
    """

    version: Literal[1] = 1
    request: Request
    files: Annotated[tuple[UsedFile, ...], Field(max_length=FILE_LIMIT)] = ()
    software: Software
    result: Result
    seconds: Annotated[float, Field(ge=0, le=1e9), NUMBER] | None = None

    @model_validator(mode="after")
    def _of_one_picture(self) -> Self:
        request = self.request
        if request.seed is None or request.seed < 0 or request.count != 1:
            raise PydanticCustomError(
                "sentence", "a recipe draws one picture from one seed; resolve the request."
            )
        if request.needs_model and (request.width is None or request.height is None):
            raise PydanticCustomError("sentence", "a recipe needs the size that was drawn.")
        return self

    def to_json(self) -> str:
        """The recipe as one line of JSON, all settings written out; ASCII only."""
        return json.dumps(self.model_dump(mode="json"), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The recipe of a JSON text.

        Raises FileError for a text that is too long, not JSON, of another version, or that has a
        setting too many or a value out of range.
        """
        value = as_object(
            parse_json(text, what="the recipe", limit=JSON_LIMIT, strict=True), what="the recipe"
        )
        version = value.get("version")
        if version != VERSION or isinstance(version, bool):
            raise FileError(
                f"the recipe has version {_brief(version)}; this Safelight reads {VERSION}."
            )
        surplus = _surplus(value)
        if surplus:
            raise FileError(f"the recipe has unknown fields: {', '.join(surplus)}.")
        try:
            return cls(**value)  # type: ignore[arg-type]
        except RequestError as error:
            raise FileError(f"the recipe cannot be used: {error}") from None

    def without_folders(self) -> Self:
        """The same recipe with bare file names: nobody learns where the files were kept."""
        shared = renamed(self.request, lambda file: bare_name(file.name))
        files = tuple(file.replace(name=bare_name(file.name)) for file in self.files)
        return self.replace(request=shared, files=files)

    def file(self, role: str) -> UsedFile | None:
        """The first file used in a role, such as "model"."""
        return next((file for file in self.files if file.role == role), None)


class Difference(NamedTuple):
    """One field that two recipes disagree on; None stands for 'not there'."""

    field: str
    a: Json
    b: Json


def pixels_sha256(pixels: NDArray[np.uint8]) -> str:
    """The hash of a picture's content, whatever file holds it: size, then raw RGB bytes.

    `pixels` is (H, W, 3) uint8. Hashed are the ASCII text "HxWx3", a newline, and the bytes.
    """
    height, width, channels = pixels.shape
    digest = hashlib.sha256(f"{height}x{width}x{channels}\n".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def differences(a: Recipe, b: Recipe) -> list[Difference]:
    """Where two recipes differ, in the order in which to look for a cause.

    Files first, then settings, software and result. Time taken is not compared, nor settings that
    cannot change a pixel.
    """
    settings = _setting_differences("request", a.request, b.request)
    return [
        *_file_differences(a, b),
        *(difference for difference in settings if difference.field not in NO_MATTER),
        *_setting_differences("software", a.software, b.software),
        *_setting_differences("result", a.result, b.result),
    ]


def explain(a: Recipe, b: Recipe) -> str:
    """The differences of two recipes in words, one a line; "identical" if there are none."""
    found = differences(a, b)
    return "\n".join(in_words(difference) for difference in found) or "identical"


def in_words(difference: Difference) -> str:
    field, a, b = difference
    room, _, name = field.partition(".")
    match room:
        case "files" if a is None:
            return f"a file is used that was not there: {name} {_brief(b)}"
        case "files" if b is None:
            return f"a file is missing: {name} {_brief(a)}"
        case "files":
            return f"the file for {name} is another: was {_brief(a)}, is {_brief(b)}"
        case "request":
            return f"the setting {name} was {_brief(a)}, is {_brief(b)}"
        case "software":
            return f"{name} was {_brief(a)}, is {_brief(b)}"
        case _ if name == "pixels_sha256":
            return f"the pixels differ: sha256 was {str(a)[:12]}..., is {str(b)[:12]}..."
        case _:
            return f"the result's {name} was {_brief(a)}, is {_brief(b)}"


def _brief(value: Json) -> str:
    if isinstance(value, list):
        return "(" + ", ".join(_brief(item) for item in value[:8]) + ")"
    return str(value) if isinstance(value, str) and " sha256 " in value else echo(value)


def _file_differences(a: Recipe, b: Recipe) -> Iterator[Difference]:
    """Files are the same if role, place among its role, and hash agree; names may differ."""
    theirs, ours = files_by_role(a), files_by_role(b)
    for role in [*theirs, *(role for role in ours if role not in theirs)]:
        was, now = theirs.get(role), ours.get(role)
        if was is None or now is None or was.sha256 != now.sha256:
            yield Difference(f"files.{role}", _told(was), _told(now))


def files_by_role(recipe: Recipe) -> dict[str, UsedFile]:
    """role, role 2, role 3, ... -> file, in order of use."""
    files: dict[str, UsedFile] = {}
    count: dict[str, int] = {}
    for file in recipe.files:
        count[file.role] = count.get(file.role, 0) + 1
        number = count[file.role]
        files[file.role if number == 1 else f"{file.role} {number}"] = file
    return files


def _told(file: UsedFile | None) -> str | None:
    if file is None:
        return None
    return f"{file.name!r} ({file.size} bytes, sha256 {file.sha256[:12]}...)"


def _setting_differences(room: str, a: Settings, b: Settings) -> Iterator[Difference]:
    was, now = dict(_flat(a, room)), dict(_flat(b, room))
    for field in [*was, *(field for field in now if field not in was)]:
        if was.get(field) != now.get(field):
            yield Difference(field, was.get(field), now.get(field))


def _flat(settings: Settings, place: str) -> Iterator[tuple[str, Json]]:
    """Every setting by its dotted name; groups inside groups are walked, not compared whole."""
    for name, value in settings:
        field = f"{place}.{name}"
        if isinstance(value, Settings):
            yield from _flat(value, field)
        elif isinstance(value, tuple) and any(isinstance(item, Settings) for item in value):
            for number, item in enumerate(value):
                yield from _flat(item, f"{field}.{number}")
        else:
            yield field, list(value) if isinstance(value, tuple) else value


def _surplus(value: dict[str, Json]) -> list[str]:
    """The names in a recipe's JSON that this version does not know, with their places."""
    found: list[str] = []
    waiting: list[tuple[str, Json, type[Settings]]] = [("", value, Recipe)]
    while waiting:
        place, part, kind = waiting.pop()
        if isinstance(part, list):
            waiting += [(f"{place}{i}.", item, kind) for i, item in enumerate(part[:FILE_LIMIT])]
        if not isinstance(part, dict):
            continue
        found += [echo(place + name) for name in part if name not in kind.model_fields]
        waiting += [
            (f"{place}{name}.", part[name], inner)
            for name, inner in _groups(kind).items()
            if name in part
        ]
    return sorted(found)[:10]


def _groups(kind: type[Settings]) -> dict[str, type[Settings]]:
    """The fields of a group that are groups themselves, or lists of them."""
    groups: dict[str, type[Settings]] = {}
    for name, field in kind.model_fields.items():
        waiting: list[object] = [field.annotation]
        while waiting:
            annotation = waiting.pop()
            if isinstance(annotation, type) and issubclass(annotation, Settings):
                groups[name] = annotation
            waiting += getattr(annotation, "__args__", ())
    return groups


def bare_name(path: str) -> str:
    """The last part of a path, whether its folders are written with / or with backslashes."""
    return PureWindowsPath(PurePosixPath(path).name).name or "unnamed"
