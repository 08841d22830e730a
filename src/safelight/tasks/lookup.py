"""The files behind the names in prompts: `<lora:name:0.8>`, `<hypernet:name:1>`, learned words.

Names are looked up once, before a drawing; the request then names the files, so that its recipe
does, and is looked up no more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safelight.checkpoints.embedding_file import embedding_for, read_embedding
from safelight.checkpoints.shelves import Addon, Shelved, find_addon, only, shelved
from safelight.embedded.carried import is_embedded
from safelight.errors import CheckpointError, RequestError
from safelight.model import Model
from safelight.printable import shown
from safelight.tasks.addons import Embedding, Hypernetwork, Lora
from safelight.tasks.request import Request
from safelight.text.bpe import Tokenizer
from safelight.text.layout import Reading, laid_out, named_embeddings
from safelight.text.networks import ExtraNetwork
from safelight.text.prompt import parse_prompt

KINDS: dict[str, Addon] = {"lora": "lora", "lyco": "lora", "hypernet": "hypernetwork"}
SIDES = ("left", "right", "top", "bottom")
G = TypeVar("G", Lora, Hypernetwork)
STEPS = 1000  # so many that every text of a schedule has its turn


@dataclass(frozen=True)
class LookedUp:
    """A request whose names have files, and what to say of names that have none."""

    request: Request
    notes: tuple[str, ...] = ()


def near(model: Model) -> Path | None:
    """The file or folder that a model came from, beside which its shelves lie."""
    for file in model.files:
        if file.role == "model":
            return file.path
        if file.role == "unet":
            return None if is_embedded(file.path) else file.path.parent.parent
    return None


def looked_up(request: Request, model: Model) -> LookedUp:
    """The request with a file for every tag and every learned word of its prompts.

    What its groups say already counts. Files that were given for tags which no prompt has are left
    out. Raises FileError or RequestError for a tag whose name leads to no file, or to several.
    """
    place = near(model)
    tags = _tags(request)
    loras, lora_notes = _for_tags(request.loras, "lora", Lora, tags, request.look_up, place)
    hypers, hyper_notes = _for_tags(
        request.hypernetworks, "hypernetwork", Hypernetwork, tags, request.look_up, place
    )
    words: tuple[Embedding, ...] = request.embeddings
    word_notes: list[str] = []
    if request.look_up:
        added, word_notes = _words(request, model, place)
        words = (*words, *added)
    found = request.replace(loras=loras, hypernetworks=hypers, embeddings=words, look_up=False)
    return LookedUp(found, (*lora_notes, *hyper_notes, *word_notes))


def check_tags(request: Request, place: Path | None) -> None:
    """Look for the files of a prompt's tags before the model is loaded.

    Raises FileError or RequestError for a name that leads to no file, or to several.
    """
    tags = _tags(request)
    _for_tags(request.loras, "lora", Lora, tags, request.look_up, place)
    _for_tags(request.hypernetworks, "hypernetwork", Hypernetwork, tags, request.look_up, place)


def tags_of(text: str, request: Request) -> tuple[ExtraNetwork, ...]:
    """The tags of a prompt in the request's dialect."""
    return parse_prompt(text, steps=STEPS, dialect=request.dialect).networks


def tag_names(request: Request) -> frozenset[str]:
    """What the tags of a request's prompts ask for by name."""
    return frozenset(tag.name for tag in _tags(request) if tag.kind in KINDS)


def _tags(request: Request) -> list[ExtraNetwork]:
    """The tags of all passes: a second one and the sides of a growing picture have their own."""
    second = None if request.hires is None else request.hires.prompt
    prompts = [request.prompt, second, *_of_sides(request)]
    return [tag for text in prompts if text is not None for tag in tags_of(text, request)]


def _of_sides(request: Request) -> list[str | None]:
    grown = request.extend
    return [] if grown is None else [getattr(grown, f"{side}_prompt") for side in SIDES]


def _for_tags(
    given: tuple[G, ...],
    kind: Addon,
    group: type[G],
    tags: Sequence[ExtraNetwork],
    look_up: bool,
    place: Path | None,
) -> tuple[tuple[G, ...], list[str]]:
    """The groups of one kind, completed for tags without a file, and rid of idle ones."""
    asked = {tag.name: tag for tag in tags if KINDS.get(tag.kind) == kind}
    kept: list[G] = [one for one in given if one.tag is None or one.tag in asked]
    notes = [
        f"{shown(one.file)} is for the tag of {shown(one.tag)}, which the prompt does not have; it "
        "was left out."
        for one in given
        if one.tag is not None and one.tag not in asked
    ]
    known = {one.tag for one in given}
    for name, tag in asked.items():
        if name in known:
            continue
        if not name.strip():
            raise RequestError(f"{shown(str(tag))} names nothing; write <{tag.kind}:NAME:1>.")
        if look_up:
            kept.append(group(file=str(find_addon(kind, name, place)), tag=name))
    return tuple(kept), notes


# -- words -----------------------------------------------------------------------------------------


def texts_of(request: Request) -> tuple[str, ...]:
    """Every text of a request that is encoded for some part of the picture, tags included."""
    texts = [request.prompt, request.negative_prompt]
    if request.hires is not None:
        texts += [request.hires.prompt or "", request.hires.negative_prompt or ""]
    for region in request.regions:
        texts += [region.prompt, region.negative_prompt or ""]
    texts += [text or "" for text in _of_sides(request)]
    return tuple(dict.fromkeys(text for text in texts if text.strip()))


def spoken(request: Request, tokenizer: Tokenizer, names: Sequence[str]) -> frozenset[str]:
    """Those of these names that a request's prompts say, by the rule by which they are encoded."""
    if request.dialect == "comfy":
        said = {name for text in texts_of(request) for name in named_embeddings(text)}
        return frozenset(said & set(names))
    first = tokenizer.vocabulary.size
    triggers = {name: (first + number,) for number, name in enumerate(names)}
    reader = tokenizer.without_triggers().with_triggers(triggers)
    reading = Reading(request.dialect, request.emphasis, request.comma_backtrack)
    ids = {
        piece
        for text in texts_of(request)
        for step in parse_prompt(text, steps=STEPS, dialect=request.dialect).texts
        for piece in _ids(step, reader, reading)
    }
    return frozenset(name for name, (own,) in triggers.items() if own in ids)


def _ids(text: str, tokenizer: Tokenizer, reading: Reading) -> Iterator[int]:
    for term in laid_out(text, tokenizer, reading).terms:
        for choice in term.choices:
            for chunk in choice.chunks:
                yield from (token for t in chunk.tokens for token in t.piece.ids)


def _words(request: Request, model: Model, place: Path | None) -> tuple[list[Embedding], list[str]]:
    """The learned words that the prompts say and no group names, and notes of those left out."""
    given = {(one.word or Path(one.file).stem).casefold() for one in request.embeddings}
    if request.dialect == "comfy":
        names = dict.fromkeys(n for text in texts_of(request) for n in named_embeddings(text))
        return [
            Embedding(file=str(find_addon("embedding", name, place)), word=name)
            for name in names
            if name.casefold() not in given
        ], []
    known: dict[str, list[Shelved]] = {}
    for one in shelved("embedding", place):
        if one.stem.casefold() not in given:
            known.setdefault(one.stem.casefold(), []).append(one)
    if not known:
        return [], []
    said = spoken(request, model.text.tokenizer, [files[0].stem for files in known.values()])
    added, notes = [], []
    for files in known.values():
        name = files[0].stem
        if name not in said:
            continue
        fitting = [file for file in files if (fault := _misfit(file, model)) is None]
        if fitting:
            added.append(Embedding(file=str(only("embedding", name, fitting)), word=name))
        else:
            notes.append(f"{shown(name)} is read as plain text: {fault}.")
    return added, notes


def _misfit(file: Shelved, model: Model) -> str | None:
    """Why a file has no vectors for this model; None if it has."""
    try:
        embedding_for(model, read_embedding(file.path))
    except CheckpointError as error:
        return str(error)
    return None
