"""Words with their frequencies and glosses from WordNet's database files.

The files are those of WordNet 3.0 (Fellbaum 1998; their format is the manual page wndb(5WN)):
`index.noun` and `data.noun`, the same for adjectives and verbs, and `cntlist.rev`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safelight.errors import FileError
from safelight.printable import shown

Part = Literal["noun", "adj", "verb"]

# The numbers that open a sense key, and the files of lexicographers whose nouns can be drawn.
_TYPES: Mapping[Part, tuple[int, ...]] = {"noun": (1,), "verb": (2,), "adj": (3, 5)}
_ANIMAL, _ARTIFACT, _BODY, _FOOD, _OBJECT, _PERSON, _PHENOMENON, _PLANT = (
    5,
    6,
    8,
    13,
    17,
    18,
    19,
    20,
)
_THINGS = frozenset((_ANIMAL, _ARTIFACT, _BODY, _FOOD, _OBJECT, _PERSON, _PHENOMENON, _PLANT))


@dataclass(frozen=True, slots=True)
class Word:
    """A word or a few, and what its most frequent sense means.

    count: how often its senses were met in the texts that WordNet's authors tagged.
    thing: whether that sense is something that can be drawn (an animal, a tool, a food, ...).
    """

    text: str
    gloss: str
    count: int
    senses: int
    thing: bool


def read_words(folder: Path, part: Part) -> list[Word]:
    """The words of one part of speech, the most frequent first; those never met by thing, senses.

    Proper names, words of more than two parts and those with digits or signs are left out. Raises
    FileError for a missing or broken file.
    """
    counts = _counts(folder, part)
    synsets = {at: (file, names, gloss) for at, file, names, gloss in _synsets(folder, part)}
    words = []
    for line in _lines(folder / f"index.{part}"):
        fields = line.split()
        lemma, first = fields[0], int(fields[-int(fields[2])])
        file, names, gloss = synsets[first]
        text = lemma.replace("_", " ")
        # Only the synset tells "Paris" from "paris"; the index is all in lower case.
        plain = re.fullmatch(r"[a-z]{2,}(?:[ -][a-z]{2,})?", text)
        if plain and lemma in names and gloss:
            count = counts.get(lemma, 0)
            words.append(Word(text, gloss, count, int(fields[2]), file in _THINGS))
    words.sort(key=lambda w: (-w.count, not w.thing, -w.senses, len(w.text), w.text))
    return words


def _counts(folder: Path, part: Part) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in _lines(folder / "cntlist.rev"):
        key, _, count = line.split()
        lemma, _, sense = key.partition("%")
        if int(sense.partition(":")[0]) in _TYPES[part]:
            counts[lemma] = counts.get(lemma, 0) + int(count)
    return counts


def _synsets(folder: Path, part: Part) -> Iterator[tuple[int, int, frozenset[str], str]]:
    """(offset, file of the lexicographer, words as they are written, gloss) of every synset."""
    for line in _lines(folder / f"data.{part}"):
        head, _, text = line.partition(" | ")
        fields = head.split()
        names = frozenset(
            re.sub(r"\((?:a|p|ip)\)$", "", name)
            for name in fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        )
        yield int(fields[0]), int(fields[1]), names, _meaning(text)


def _meaning(text: str) -> str:
    """A gloss without remarks in brackets, examples, and what follows the first semicolon."""
    text = re.sub(r"\([^)]*\)", " ", text.partition(";")[0].partition('"')[0])
    return " ".join(text.split()).strip(" ,:").lower()


def _lines(path: Path) -> Iterator[str]:
    """The lines after the licence, which is indented. Raises FileError."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and not line.startswith("  "):
                    if len(line.split()) < 3:
                        raise FileError(
                            f"{shown(path)}: line {number} is no entry of WordNet 3.0; give the"
                            " folder with its index, data and cntlist.rev files."
                        )
                    yield line
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(
            f"{shown(path)}: cannot be read ({shown(str(error))}); give the folder with WordNet's"
            " index, data and cntlist.rev files."
        ) from None
