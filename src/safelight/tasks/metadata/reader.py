"""The door: whatever settings a picture carries, from whatever program."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

from safelight.errors import FileError
from safelight.tasks.bounded_json import as_object, parse_json
from safelight.tasks.metadata import comfyui, fooocus, invokeai, novelai
from safelight.tasks.metadata.infotext import parse_infotext
from safelight.tasks.metadata.infotext_request import read_fields
from safelight.tasks.metadata.reading import Reading, StatedHash
from safelight.tasks.metadata.stealth import stealth_text
from safelight.tasks.picture_file import (
    RECIPE_KEY,
    USER_COMMENT_KEY,
    OpenedPicture,
    open_picture,
)
from safelight.tasks.recipe import Recipe
from safelight.tasks.request import Request

PARAMETERS = "parameters"
NOTHING = "nothing"


@dataclass(frozen=True)
class Found:
    """What a picture tells about how it was drawn."""

    source: str  # the program, or "nothing"
    request: Request | None = None
    recipe: Recipe | None = None  # only Safelight's pictures have one
    notes: tuple[str, ...] = ()  # what was not understood or not taken over
    texts: Mapping[str, str] = field(default_factory=dict)  # all that was there, as it was
    model_hash: str | None = None  # as the program tells it
    hashes: tuple[StatedHash, ...] = ()  # of LoRAs and learned words; a recipe has its own


def read_settings(path: Path | str) -> Found:
    """The settings of a PNG, JPEG or WebP file of Safelight, A1111, Forge, Civitai, ComfyUI,
    InvokeAI, Fooocus or NovelAI.

    Raises FileError if the file cannot be opened as a picture; a text that cannot be understood
    becomes a note, and the next is tried.
    """
    return settings_of(open_picture(path))


def settings_of(picture: OpenedPicture) -> Found:
    """The settings of an opened picture; see `read_settings`."""
    texts = dict(picture.texts)
    notes: list[str] = []
    if not texts.keys() & KNOWN:
        _unhide(picture, texts, notes)
    recipe = _recipe(texts, notes)
    if recipe is not None:
        known = recipe.file("model")
        return Found(
            "Safelight",
            recipe.request,
            recipe,
            tuple(notes),
            texts,
            known.sha256 if known else None,
        )
    for read in _readers(texts):
        try:
            reading = read()
        except FileError as error:
            notes.append(str(error))
            continue
        notes += reading.notes
        if reading.request is not None:
            return Found(
                reading.source,
                reading.request,
                None,
                tuple(notes),
                texts,
                reading.model_hash,
                reading.hashes,
            )
    return Found(NOTHING, notes=tuple(notes), texts=texts)


def _unhide(picture: OpenedPicture, texts: dict[str, str], notes: list[str]) -> None:
    try:
        hidden = stealth_text(picture.pixels, picture.alpha) if picture.kind == "PNG" else None
    except FileError as error:
        notes.append(str(error))
        return
    if hidden is not None:
        texts[PARAMETERS] = hidden


def _recipe(texts: Mapping[str, str], notes: list[str]) -> Recipe | None:
    if RECIPE_KEY not in texts:
        return None
    try:
        return Recipe.from_json(texts[RECIPE_KEY])
    except FileError as error:
        notes.append(str(error))
        return None


def _readers(texts: Mapping[str, str]) -> Iterator[Callable[[], Reading]]:
    """Readers for the texts that are there, the most telling first."""
    for key, read in BY_KEY.items():
        if key in texts:
            yield partial(read, texts[key])
    comment = texts.get("Comment", "")
    if comment.lstrip()[:1] == "{" and (
        '"uc"' in comment or "NovelAI" in texts.get("Software", "")
    ):
        yield partial(novelai.read_novelai, texts.get("Description", ""), comment)
    for key in (PARAMETERS, USER_COMMENT_KEY, "Comment"):
        if texts.get(key):
            yield partial(_parameters, texts[key])


def _parameters(text: str) -> Reading:
    """A text that may be Fooocus' or NovelAI's JSON, or A1111's lines."""
    if fooocus.is_fooocus(text):
        return fooocus.read_fooocus(text)
    if text.lstrip()[:1] == "{":
        return _wrapped(text)
    parts = parse_infotext(text)
    if not parts.fields:
        raise FileError("a text was found, but it has no line of settings.")
    return read_fields(parts)


def _wrapped(text: str) -> Reading:
    """NovelAI hides one JSON object that holds its two chunks; ComfyUI's savers hide graphs."""
    what = "the parameters"
    given = as_object(parse_json(text, what=what, limit=comfyui.JSON_LIMIT), what=what)
    comment, description = given.get("Comment"), given.get("Description")
    if isinstance(comment, str):
        return novelai.read_novelai(description if isinstance(description, str) else "", comment)
    if any(isinstance(node, dict) and "class_type" in node for node in given.values()):
        return comfyui.read_prompt(text)
    raise FileError("the parameters are JSON of an unknown kind.")


BY_KEY: Mapping[str, Callable[[str], Reading]] = MappingProxyType(
    {
        "invokeai_metadata": invokeai.read_invokeai,
        "sd-metadata": invokeai.read_sd_metadata,
        "Dream": invokeai.read_dream,
        "prompt": comfyui.read_prompt,
        "workflow": comfyui.read_workflow,
    }
)
KNOWN = {RECIPE_KEY, PARAMETERS, USER_COMMENT_KEY, "Comment", *BY_KEY}
