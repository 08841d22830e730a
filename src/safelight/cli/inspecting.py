"""What `safelight inspect` prints."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from safelight.checkpoints.inspect import Inspection, PartInspection
from safelight.checkpoints.inspect import inspect as inspected
from safelight.checkpoints.made_by import KEY as RECIPE
from safelight.checkpoints.made_by import made_by
from safelight.cli.adapter_lines import LONGEST, TOLD, adapter_lines
from safelight.cli.recipe_lines import recipe_lines
from safelight.cli.telling import console, tell
from safelight.errors import FileError
from safelight.printable import shown
from safelight.tasks.grid import KEY, recipes_of
from safelight.tasks.metadata.infotext import infotext
from safelight.tasks.metadata.reader import Found, settings_of
from safelight.tasks.picture import OpenedPicture, open_picture
from safelight.tasks.recipe import Recipe, pixels_sha256
from safelight.tasks.request import Request

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
ALWAYS = ("width", "height", "seed", "steps", "sampler", "schedule", "cfg_scale")
NAMES = 6  # of tensors that are listed


def is_picture(path: Path) -> bool:
    """Whether a file begins as a PNG, JPEG or WebP does."""
    try:
        with path.open("rb") as file:
            return path.is_file() and file.read(8).startswith(MAGIC)
    except (OSError, ValueError):
        return False


def check_picture(path: Path) -> None:
    """Raise FileError for a file that is named as a picture but does not begin as one."""
    if path.suffix.lower() in SUFFIXES and path.is_file() and not is_picture(path):
        raise FileError(
            f"{shown(path)} is not a picture: it does not begin as a PNG, JPEG or WebP does."
        )


# -- weights ---------------------------------------------------------------------------------------


def show_weights(path: Path, *, variant: str | None, hashes: bool, as_json: bool) -> None:
    """Print what a weights file or a folder is."""
    seen = inspected(path, variant=variant, hashes=hashes)
    if as_json:
        print(json.dumps(seen.to_json()))
        return
    told = console()
    _lines(told, _facts(seen))
    if seen.adapter is not None:
        _lines(told, adapter_lines(seen.adapter))
    told.print(_parts(seen.parts))
    for part in seen.parts:
        _lines(told, _faults(part))
    # Of an adapter, the lines above name each key that has no place.
    unknown = seen.unknown if seen.adapter is None else ()
    counted = [("ignored", seen.ignored), ("unknown", unknown)]
    _lines(told, ((f"{name} keys", _counts(found)) for name, found in counted))
    made = made_by(seen.metadata)
    if made is not None:
        _lines(told, recipe_lines(made))
    read = {RECIPE} if made is not None else set()
    remarks = {name: text for name, text in seen.metadata.items() if name not in read}
    if seen.adapter is not None:
        remarks = {n: t for n, t in remarks.items() if n not in TOLD and len(t) <= LONGEST}
    _lines(told, remarks.items())
    tell(seen.notes)
    if seen.problem is not None:
        what = "drawn with" if seen.adapter is None else "used"
        tell([f"it cannot be {what} as it is: {seen.problem}"])


def _facts(seen: Inspection) -> Iterator[tuple[str, str]]:
    yield "file", seen.path
    yield "kind", f"{seen.kind} {seen.made_for}".strip()
    yield "family", seen.label or ""
    yield "because", seen.reason.removeprefix(f"{seen.label}: ")
    yield "layout", seen.layout or ""
    if seen.prediction:
        terminal = ", zero terminal SNR" * seen.zero_terminal_snr
        reason = f" ({seen.prediction_reason})" if seen.prediction_reason else ""
        yield "prediction", f"{seen.prediction}{terminal}{reason}"
    yield "size", f"{decimal(seen.size)}, {seen.parameters:,} numbers, {seen.container}"
    yield "sha256", seen.sha256 or ""
    yield "short hash", seen.short_hash or ""


def _parts(parts: Iterable[PartInspection]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("part", "numbers", "types", "used", "missing", "surplus", "ignored"):
        table.add_column(name, justify="left" if name in ("part", "types") else "right")
    for part in parts:
        types = ", ".join(f"{count} {dtype}" for dtype, count in part.dtypes.items())
        counts = (part.used, len(part.missing), len(part.surplus), len(part.ignored))
        table.add_row(shown(part.role), f"{part.parameters:,}", types, *map(str, counts))
    return table


def _faults(part: PartInspection) -> Iterator[tuple[str, str]]:
    yield f"{part.role}: missing", _listed(part.missing)
    yield f"{part.role}: surplus", _listed(part.surplus)
    shapes = [f"{m.name} is {list(m.found)}, expected {list(m.expected)}" for m in part.misshapen]
    yield f"{part.role}: shapes", _listed(shapes)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f", and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def _counts(found: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{prefix} ({count})" for prefix, count in found)


# -- pictures --------------------------------------------------------------------------------------


def show_picture(path: Path, *, as_json: bool) -> None:
    """Print the settings that a picture carries."""
    opened = open_picture(path)
    if KEY in opened.texts:
        _show_sheet(opened, as_json=as_json)
        return
    found = settings_of(opened)
    if as_json:
        print(json.dumps(_picture_json(opened, found)))
        return
    told = console()
    _lines(told, _picture_facts(opened, found))
    if found.recipe is not None:
        told.print(Text(shown_lines(infotext(found.recipe))))
    elif found.request is not None:
        _lines(told, _stated(found.request))
    tell(found.notes)


def _stated(request: Request) -> Iterator[tuple[str, str]]:
    """What was read, in the order of a request; the main settings also where they are usual."""
    told = request.model_dump(mode="json", exclude_defaults=True)
    for name, value in request.model_dump(mode="json").items():
        if name in told or (name in ALWAYS and value is not None):
            yield name, str(value)


def _picture_facts(opened: OpenedPicture, found: Found) -> Iterator[tuple[str, str]]:
    height, width, _ = opened.pixels.shape
    yield "file", str(opened.path)
    yield "picture", f"{opened.kind}, {width}x{height}"
    yield "settings", {"nothing": "none found"}.get(found.source, f"of {found.source}")
    recipe = found.recipe
    if recipe is None:
        yield "model hash", found.model_hash or ""
        return
    yield "pixels", _pixels(opened, recipe)
    for file in recipe.files:
        yield file.role, f"{file.name}, {decimal(file.size)}, sha256 {file.sha256}"
    software = recipe.software
    yield (
        "drawn with",
        (
            f"safelight {software.safelight}, torch {software.torch}, Python {software.python}, "
            f"{software.dtype} on {software.device}, {software.threads} threads"
        ),
    )
    for warning in recipe.result.warnings:
        yield "warned", warning


def _pixels(opened: OpenedPicture, recipe: Recipe) -> str:
    if pixels_sha256(opened.pixels) == recipe.result.pixels_sha256:
        return "those that the recipe names"
    lossy = "saved with loss, or edited" if opened.kind != "PNG" else "edited"
    return f"not those that the recipe names: {lossy}"


def _picture_json(opened: OpenedPicture, found: Found) -> dict[str, object]:
    height, width, _ = opened.pixels.shape
    recipe, request = found.recipe, found.request
    return {
        "path": str(opened.path),
        "kind": opened.kind,
        "width": width,
        "height": height,
        "source": found.source,
        "request": None if request is None else request.model_dump(mode="json"),
        "recipe": None if recipe is None else recipe.model_dump(mode="json"),
        "pixels_match": None
        if recipe is None
        else pixels_sha256(opened.pixels) == recipe.result.pixels_sha256,
        "model_hash": found.model_hash,
        "notes": list(found.notes),
        "texts": dict(found.texts),
    }


def _show_sheet(opened: OpenedPicture, *, as_json: bool) -> None:
    recipes = recipes_of(opened)
    height, width, _ = opened.pixels.shape
    if as_json:
        cells = [[recipe.model_dump(mode="json") for recipe in row] for row in recipes]
        values = {"path": str(opened.path), "kind": opened.kind, "width": width, "height": height}
        print(json.dumps({**values, "source": "Safelight", "cells": cells}))
        return
    told = console()
    columns = max((len(row) for row in recipes), default=0)
    facts = [
        ("file", str(opened.path)),
        ("picture", f"{opened.kind}, {width}x{height}"),
        ("settings", f"of a sheet of {len(recipes)} x {columns} pictures, by row and column:"),
    ]
    _lines(told, facts)
    for y, row in enumerate(recipes, start=1):
        for x, recipe in enumerate(row, start=1):
            told.print(Text(f"\n{y},{x}", style="bold"))
            told.print(Text(shown_lines(infotext(recipe))))


# -- printing --------------------------------------------------------------------------------------


def shown_lines(text: str) -> str:
    """A text of several lines with control characters escaped."""
    return "\n".join(shown(line, len(line)) for line in text.splitlines())


def _lines(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    """Name and value on a line each, where there is a value."""
    for name, value in facts:
        if value:
            console.print(Text.assemble((f"{shown(name)}: ", "bold"), shown(value, 2000)))
