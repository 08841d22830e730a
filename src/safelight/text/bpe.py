"""CLIP's byte-pair tokenizer, on any vocabulary of its form.

Radford et al. 2021 (arXiv:2103.00020).
"""

import heapq
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from safelight.text.cleaning import CLEANINGS, Cleaning
from safelight.text.vocabulary import (
    CLIP_VOCABULARY,
    END_TEXT,
    SINGLE,
    START_TEXT,
    WORD_END,
    Vocabulary,
    alphabet,
)

CONTRACTIONS = ("'re", "'ve", "'ll", "'s", "'t", "'m", "'d")
REMEMBERED_LENGTH = 64  # longer words are rare, and would fill the memory of words

# What each reference reads as start and end of text when a prompt spells it out.
SPECIALS: Mapping[Cleaning, tuple[str, str]] = {
    "openai": ("<start_of_text>", "<end_of_text>"),  # open_clip's names
    "transformers": (START_TEXT, END_TEXT),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of the text, or one trigger that stands for several vectors.

    text: the token with "</w>" where it ends a word; bytes that are no whole character are
        written \\xff.
    start, end: the characters of the cleaned text it covers; where a character's bytes were split,
        its pieces overlap.
    """

    text: str
    ids: tuple[int, ...]
    start: int
    end: int
    trigger: bool = False


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids, without start and end of text.

    triggers: words of textual inversion and the ids (rows added to the token embedding) that each
        stands for. A trigger that begins or ends with neither letter nor digit, as `<cat-toy>`, is
        found as a string; any other by its token ids, as A1111 does. Of several, the longest wins.
    vocabulary: what is merged, and so the ids; CLIP's unless the model has its own.
    """

    cleaning: Cleaning = "openai"
    triggers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    vocabulary: Vocabulary = CLIP_VOCABULARY

    def clean(self, text: str) -> str:
        """The text that is tokenized, to which the places of pieces refer."""
        return CLEANINGS[self.cleaning](text)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; each trigger becomes all of its ids."""
        return [token for piece in self.pieces(text) for token in piece.ids]

    def pieces(self, text: str) -> list[Piece]:
        """Tokens with their places in the cleaned text."""
        if self.cleaning == "openai":
            return self._found_by_ids(self._words(self.clean(text), 0))
        # transformers cuts its special tokens out of the raw text and cleans what lies between.
        pieces: list[Piece] = []
        place = 0
        for part in re.split("({})".format("|".join(map(re.escape, self._specials))), text):
            if part in self._specials:
                pieces.append(Piece(part, (self._specials[part],), place, place + len(part)))
            else:
                part = self.clean(part)
                pieces += self._words(part, place)
            place += len(part)
        return self._found_by_ids(pieces)

    def with_triggers(self, triggers: Mapping[str, Sequence[int]]) -> "Tokenizer":
        """The same tokenizer with more triggers; one of the same name is replaced."""
        added = {name: tuple(ids) for name, ids in triggers.items()}
        return replace(self, triggers={**self.triggers, **added})

    def without_triggers(self) -> "Tokenizer":
        """The same tokenizer of the bare vocabulary."""
        return replace(self, triggers={})

    @cached_property
    def _specials(self) -> Mapping[str, int]:
        start, end = SPECIALS[self.cleaning]
        return {start: self.vocabulary.bos, end: self.vocabulary.eos}

    @cached_property
    def _merger(self) -> "_Merger":
        return _merger(self.vocabulary)

    @cached_property
    def _by_string(self) -> dict[str, tuple[int, ...]]:
        """Cleaned names of the triggers that are found as strings."""
        names = {self.clean(name): ids for name, ids in self.triggers.items()}
        return {name: ids for name, ids in names.items() if name and not _bounded(name)}

    @cached_property
    def _by_ids(self) -> dict[int, list[tuple[tuple[int, ...], str, tuple[int, ...]]]]:
        """First token id -> (token ids, name, ids of the vectors), longest first."""
        table: dict[int, list[tuple[tuple[int, ...], str, tuple[int, ...]]]] = {}
        for name, ids in self.triggers.items():
            cleaned = self.clean(name)
            own: tuple[int, ...] = ()
            if _bounded(cleaned):
                own = tuple(p.ids[0] for p in _tokenized(cleaned, 0, {}, self._merger))
            if own:
                table.setdefault(own[0], []).append((own, name, ids))
        for rivals in table.values():
            rivals.sort(key=lambda rival: len(rival[0]), reverse=True)
        return table

    def _words(self, cleaned: str, place: int) -> Iterator[Piece]:
        specials = self._specials if self.cleaning == "openai" else {}
        if not self._by_string:
            yield from _tokenized(cleaned, place, specials, self._merger)
            return
        longest = sorted(self._by_string, key=len, reverse=True)
        for part in re.split("({})".format("|".join(map(re.escape, longest))), cleaned):
            if part in self._by_string:
                yield Piece(part, self._by_string[part], place, place + len(part), trigger=True)
            else:
                yield from _tokenized(part, place, specials, self._merger)
            place += len(part)

    def _found_by_ids(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Pieces in which runs of ids that spell a trigger are that trigger."""
        pieces = list(pieces)
        if not self._by_ids:
            return pieces
        result: list[Piece] = []
        at = 0
        while at < len(pieces):
            first = pieces[at]
            for own, name, ids in [] if first.trigger else self._by_ids.get(first.ids[0], []):
                run = pieces[at : at + len(own)]
                if tuple(p.ids[0] for p in run) == own and not any(p.trigger for p in run):
                    result.append(Piece(name, ids, first.start, run[-1].end, trigger=True))
                    at += len(own)
                    break
            else:
                result.append(first)
                at += 1
        return result


def token_text(token: int, vocabulary: Vocabulary = CLIP_VOCABULARY) -> str:
    """The text of a token id, as in `Piece.text`; ids of added rows read `<row 49408>`."""
    return vocabulary.text(token)


def _tokenized(
    cleaned: str, place: int, specials: Mapping[str, int], merger: "_Merger"
) -> Iterator[Piece]:
    for start, end in _split(cleaned, specials):
        word = cleaned[start:end]
        if word in specials:
            yield Piece(word, (specials[word],), place + start, place + end)
            continue
        # Token boundaries are known in bytes; `edges` says in which character each byte lies.
        edges = [i for i, c in enumerate(word) for _ in range(len(c.encode("utf-8")))]
        at = 0
        for token, length in merger.merged(word):
            first, last = edges[at], edges[at + length - 1]
            yield Piece(
                merger.text(token), (token,), place + start + first, place + start + last + 1
            )
            at += length


def _split(text: str, specials: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """Start and end of each word: a special, a contraction, letters, one digit, or other signs."""
    at = 0
    while at < len(text):
        kind = _kind(text[at])
        length = 1
        if kind == "other":
            length = _opening(text, at, specials)
        if not length or kind == "letter":
            length = 1
            while at + length < len(text) and _kind(text[at + length]) == kind:
                length += 1
        if kind != "space":
            yield at, at + length
        at += length


def _opening(text: str, at: int, specials: Mapping[str, int]) -> int:
    """Length of the special or contraction that starts here, or 0."""
    if text[at] == "<":
        return next((len(s) for s in specials if text.startswith(s, at)), 0)
    if text[at] == "'":
        # The reference ignores case here, and lower case leaves the long s (U+017F) as it is.
        following = text[at : at + 3].replace("\u017f", "s") if specials else text[at : at + 3]
        return next((len(c) for c in CONTRACTIONS if following.startswith(c)), 0)
    return 0


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    if character.isspace() and not "\x1c" <= character <= "\x1f":  # Python alone calls these blanks
        return "space"
    category = unicodedata.category(character)[0]
    return {"L": "letter", "N": "number"}.get(category, "other")


class _Merger:
    """Merges words by one vocabulary, and remembers them."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._letters = alphabet()
        self._ranks = vocabulary.ranks
        self._single = {token: i for i, token in enumerate(vocabulary.tokens[:SINGLE])}
        self._remembered = lru_cache(maxsize=8192)(self._merge)
        self.text: Callable[[int], str] = lru_cache(maxsize=8192)(vocabulary.text)

    def merged(self, word: str) -> Sequence[tuple[int, int]]:
        """(token id, number of bytes) of the tokens of one word."""
        return self._remembered(word) if len(word) <= REMEMBERED_LENGTH else self._merge(word)

    def _merge(self, word: str) -> Sequence[tuple[int, int]]:
        """Byte-pair merging, the earliest learned pair first and from left to right.

        A merge never makes a pair that was learned earlier than itself, so a heap of pairs gives
        what scanning the word for the best pair again and again does, in n log n instead of n
        squared.
        """
        ranks, letters = self._ranks, self._letters
        symbols = [letters[byte] for byte in word.encode("utf-8")]
        symbols[-1] += WORD_END
        tokens = [self._single[symbol] for symbol in symbols]
        lengths = [1] * len(symbols)
        after = [*range(1, len(symbols)), -1]
        before = list(range(-1, len(symbols) - 1))
        heap: list[tuple[int, int, tuple[str, str]]] = []

        def consider(left: int) -> None:
            if left >= 0 and after[left] >= 0:
                pair = (symbols[left], symbols[after[left]])
                if (rank := ranks.get(pair)) is not None:
                    heapq.heappush(heap, (rank, left, pair))

        for left in range(len(symbols) - 1):
            consider(left)
        while heap:
            rank, left, pair = heapq.heappop(heap)
            right = after[left]
            if not lengths[left] or right < 0 or (symbols[left], symbols[right]) != pair:
                continue  # a neighbour was merged away since
            symbols[left] += symbols[right]
            tokens[left] = SINGLE + rank
            lengths[left] += lengths[right]
            lengths[right] = 0
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            consider(before[left])
            consider(left)
        return [(token, length) for token, length in zip(tokens, lengths, strict=True) if length]


@lru_cache(maxsize=16)
def _merger(vocabulary: Vocabulary) -> _Merger:
    return _Merger(vocabulary)


def _bounded(name: str) -> bool:
    """Whether a name begins and ends with a letter or digit, and so is made of whole tokens."""
    return bool(name) and name[0].isalnum() and name[-1].isalnum()
