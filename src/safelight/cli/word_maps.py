"""Draws and saves what --word-maps and --words ask for: where the words of a prompt acted."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safelight.engines.table import AUTO, EAGER
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.generate import generate
from safelight.tasks.painting import Watch
from safelight.tasks.picture import Picture
from safelight.tasks.request import Request
from safelight.tasks.supplies import Supplies
from safelight.tasks.word_recording import Worded, refuse_parts, with_word_maps
from safelight.writing import write_whole


@dataclass(frozen=True)
class WantedMaps:
    """Whether word maps are asked for, and of which phrases; without phrases, of every word."""

    wanted: bool = False
    phrases: tuple[str, ...] = ()

    def check(self, request: Request) -> None:
        """Raise RequestError for a request whose maps cannot be made."""
        if self.wanted:
            refuse_parts(request)

    def suited(self, request: Request) -> Request:
        """The request with an engine that shows its attention, where it may be chosen."""
        return request.replace(engine=EAGER) if self.wanted and request.engine == AUTO else request

    def drawn(
        self, model: Model, request: Request, watch_steps: Watch, supplies: Supplies
    ) -> Iterator[tuple[Picture, Worded | None]]:
        """The pictures of a request, each with its maps if they are asked for."""
        if not self.wanted:
            drawn = generate(model, request, watch_steps=watch_steps, supplies=supplies)
            for picture in drawn:
                yield picture, None
            return
        maps = with_word_maps(
            model, request, phrases=self.phrases, watch_steps=watch_steps, supplies=supplies
        )
        for worded in maps:
            yield worded.picture, worded


NO_MAPS = WantedMaps()


@dataclass(frozen=True)
class SavedSheet:
    """The file of a sheet, the text that it is of, and each word's share of the attention."""

    path: Path
    text: str
    shares: tuple[tuple[str, float], ...]

    @property
    def line(self) -> str:
        """What is printed of it."""
        return f"{self.path}  {len(self.shares)} word map{'s' * (len(self.shares) != 1)}"

    @property
    def values(self) -> dict[str, object]:
        """The same for machines."""
        words = [{"word": word, "share": round(share, 6)} for word, share in self.shares]
        return {"path": str(self.path), "text": self.text, "words": words}


def wanted_maps(word_maps: bool, words: str | None) -> WantedMaps:
    """What --word-maps and --words ask for; --words asks for maps, too.

    Raises RequestError for words that are none.
    """
    if words is None:
        return WantedMaps(word_maps)
    try:
        read = next(csv.reader([words], skipinitialspace=True, strict=True), [])
    except csv.Error:
        read = []
    phrases = tuple(dict.fromkeys(" ".join(phrase.split()) for phrase in read))
    if not all(phrases) or not phrases:
        raise RequestError(
            "--words must be words or phrases of the prompt with commas between, such as "
            f"'red apple,table'; got {words!r}."
        )
    return WantedMaps(True, phrases)


def save_sheets(picture: Path, worded: Worded | None) -> list[SavedSheet]:
    """Write the sheets of a picture beside its file, as NAME-words.png, NAME-words-2.png, ...

    One for each text of its prompt; nothing is replaced. They carry no recipe. Raises OutputError.
    """
    if worded is None:
        return []
    return [
        SavedSheet(
            _written(picture, _png(page)),
            maps.text,
            tuple((word.word, word.share) for word in maps.words),
        )
        for maps, page in zip(worded.texts, worded.sheets, strict=True)
    ]


def _written(picture: Path, data: bytes) -> Path:
    for number in count(1):
        path = picture.with_name(f"{picture.stem}-words{f'-{number}' * (number > 1)}.png")
        if path.exists():
            continue
        try:
            write_whole(path, data, replace=False)
        except FileExistsError:  # another process was quicker
            continue
        break
    return path


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
