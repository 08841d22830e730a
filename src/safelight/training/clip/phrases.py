"""Phrases to learn language from: captions of what can be drawn, and words with their meanings.

A small set of pictures has a few thousand names; a text tower that saw nothing else knows no
synonyms. So it also learns from a sentence encoder, on phrases that need no pictures.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from safelight.training.clip.wordnet import Part, Word

COLOURS = (
    "white", "black", "grey", "red", "orange", "yellow", "green", "teal", "blue", "purple",
    "pink", "brown",
)  # fmt: skip
SHADES = ("light", "dark", "pale", "bright", "deep")
COUNTS = ("two", "three", "four", "five", "six")
SIZES = ("small", "big", "tiny", "large")
PLACES = (
    "in the top left", "in the top right", "in the bottom left", "in the bottom right",
    "in the centre", "on the left", "on the right", "at the top", "at the bottom",
)  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below", "next to", "and")


@dataclass(frozen=True, slots=True)
class Concept:
    """Something that pictures show: what it is called, and where it belongs."""

    name: str
    keywords: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shares:
    """How many phrases of each kind to make, at most."""

    captions_per_concept: int = 8
    keyword_captions: int = 3_000
    nouns: int = 17_500
    glosses: int = 9_000
    coloured_nouns: int = 2_500
    adjectives: int = 2_500
    verbs: int = 2_000


def phrase_counts(
    concepts: Sequence[Concept],
    styles: Sequence[str],
    words: Mapping[Part, Sequence[Word]],
    *,
    shares: Shares = Shares(),
    seed: int = 0,
) -> dict[str, int]:
    """Distinct phrases with how much each counts when a vocabulary is learned from them.

    Names and keywords count most, for their words shall be single tokens; dictionary words as
    often as texts use them. The same arguments give the same phrases in the same order.
    """
    chance = random.Random(seed)
    counts: dict[str, int] = {}

    def add(phrases: Iterable[str], weight: int) -> None:
        for phrase in phrases:
            phrase = " ".join(phrase.split())
            if phrase:
                counts[phrase] = max(counts.get(phrase, 0), weight)

    add((concept.name for concept in concepts), 60)
    add((group.replace("-", " ") for c in concepts for group in c.groups), 10)
    add((keyword.replace("_", " ") for c in concepts for keyword in c.keywords), 12)
    for concept in concepts:
        add(captions(concept, concepts, styles, shares.captions_per_concept, chance), 4)
    add(_keyword_captions(concepts, styles, shares.keyword_captions, chance), 2)
    for part, limit in (
        ("noun", shares.nouns), ("adj", shares.adjectives), ("verb", shares.verbs),
    ):  # fmt: skip
        for word in _of(words, part)[:limit]:
            add([word.text], 1 + min(word.count, 20))
    add((f"{w.text}, {_opening(w.gloss)}" for w in _of(words, "noun")[: shares.glosses]), 1)
    things = [word.text for word in _of(words, "noun") if word.thing][: shares.coloured_nouns]
    add((article(f"{_colour(chance)} {noun}") for noun in things), 1)
    return counts


def captions(
    concept: Concept,
    others: Sequence[Concept],
    styles: Sequence[str],
    count: int,
    chance: random.Random,
) -> Iterator[str]:
    """Captions of one concept: of each kind in turn, with colours, counts, places at random."""
    makers = (_plain, _styled, _shown_in, _placed, _counted, _paired, _tagged, _coloured)
    first = chance.randrange(len(makers))
    for turn in range(count):
        maker = makers[(first + turn) % len(makers)]
        yield maker(concept, chance.choice(others), chance.choice(styles), chance)


def article(words: str) -> str:
    """The words after "a" or "an"."""
    vowel = re.match(r"[aeiou]", words) and not re.match(r"uni|use|uku|eu|one\b", words)
    return f"{'an' if vowel else 'a'} {words}"


def plural(noun: str) -> str:
    """The regular plural of a noun: apples, boxes, cherries."""
    if re.search(r"(?:s|x|z|ch|sh)$", noun):
        return noun + "es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", noun) + "s"


# -- captions of one kind --------------------------------------------------------------------------


def _colour(chance: random.Random) -> str:
    colour = chance.choice(COLOURS)
    shaded = chance.random() < 0.2 and colour not in ("white", "black")
    return f"{chance.choice(SHADES)} {colour}" if shaded else colour


def _ground(chance: random.Random) -> str:
    return f"{article(_colour(chance))} background"


def _plain(concept: Concept, other: Concept, style: str, chance: random.Random) -> str:
    return f"{article(concept.name)} on {_ground(chance)}"


def _styled(concept: Concept, other: Concept, style: str, chance: random.Random) -> str:
    return f"{article(concept.name)} on {_ground(chance)}, {style} emoji"


def _shown_in(concept: Concept, other: Concept, style: str, chance: random.Random) -> str:
    return f"{style} emoji of {article(concept.name)}, {_colour(chance)} background"


def _placed(concept: Concept, other: Concept, style: str, chance: random.Random) -> str:
    thing = article(f"{chance.choice(SIZES)} {concept.name}")
    return f"{thing} {chance.choice(PLACES)}, {_colour(chance)} background"


def _counted(concept: Concept, other: Concept, style: str, chance: random.Random) -> str:
    return f"{chance.choice(COUNTS)} {plural(concept.name)} on {_ground(chance)}"


def _paired(concept: Concept, other: Concept, style: str, chance: random.Random) -> str:
    relation = chance.choice(RELATIONS)
    return f"{article(concept.name)} {relation} {article(other.name)} on {_ground(chance)}"


def _tagged(concept: Concept, other: Concept, style: str, chance: random.Random) -> str:
    words = chance.sample(concept.keywords, min(2, len(concept.keywords)))
    return ", ".join((concept.name, *words))


def _coloured(concept: Concept, other: Concept, style: str, chance: random.Random) -> str:
    return article(f"{_colour(chance)} {concept.name}")


def _keyword_captions(
    concepts: Sequence[Concept], styles: Sequence[str], count: int, chance: random.Random
) -> Iterator[str]:
    keywords = sorted({keyword.replace("_", " ") for c in concepts for keyword in c.keywords})
    for keyword in chance.sample(keywords, min(count, len(keywords))):
        picked = Concept(keyword)
        maker = chance.choice((_plain, _styled, _shown_in, _coloured))
        yield maker(picked, picked, chance.choice(styles), chance)


def _of(words: Mapping[Part, Sequence[Word]], part: str) -> Sequence[Word]:
    return next((own for key, own in words.items() if key == part), ())


def _opening(gloss: str, words: int = 9) -> str:
    return " ".join(gloss.split()[:words])
