"""CLIP's byte-pair tokenizer (Radford et al. 2021, arXiv:2103.00020).

The vocabulary is 256 bytes, the same 256 at the end of a word, 48,894 merges, start and end of
text: 49,408 in all. The file of merges is OpenAI's (MIT licence, see NOTICE).
"""

import gzip
import heapq
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from importlib import resources

from safelight.text.cleaning import CLEANINGS, Cleaning
from safelight.text.spec import BOS, EOS

MERGES = 49152 - 256 - 2  # of the file's lines; those after were never given an id
WORD_END = "</w>"
CONTRACTIONS = ("'re", "'ve", "'ll", "'s", "'t", "'m", "'d")
REMEMBERED_LENGTH = 64  # longer words are rare, and would fill the memory of words

# What each reference reads as start and end of text when a prompt spells it out.
SPECIALS: Mapping[Cleaning, Mapping[str, int]] = {
    "openai": {"<start_of_text>": BOS, "<end_of_text>": EOS},  # open_clip's names
    "transformers": {"<|startoftext|>": BOS, "<|endoftext|>": EOS},
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
    """Text to CLIP's token ids, without start and end of text.

    triggers: words of textual inversion and the ids (rows added to the token embedding) that each
        stands for. A trigger that begins or ends with neither letter nor digit, as `<cat-toy>`, is
        found as a string; any other by its token ids, as A1111 does. Of several, the longest wins.
    """

    cleaning: Cleaning = "openai"
    triggers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

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

    @property
    def _specials(self) -> Mapping[str, int]:
        return SPECIALS[self.cleaning]

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
            own = tuple(p.ids[0] for p in _tokenized(cleaned, 0, {})) if _bounded(cleaned) else ()
            if own:
                table.setdefault(own[0], []).append((own, name, ids))
        for rivals in table.values():
            rivals.sort(key=lambda rival: len(rival[0]), reverse=True)
        return table

    def _words(self, cleaned: str, place: int) -> Iterator[Piece]:
        specials = self._specials if self.cleaning == "openai" else {}
        if not self._by_string:
            yield from _tokenized(cleaned, place, specials)
            return
        longest = sorted(self._by_string, key=len, reverse=True)
        for part in re.split("({})".format("|".join(map(re.escape, longest))), cleaned):
            if part in self._by_string:
                yield Piece(part, self._by_string[part], place, place + len(part), trigger=True)
            else:
                yield from _tokenized(part, place, specials)
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


def token_text(token: int) -> str:
    """The text of a token id, as in `Piece.text`; ids of added rows read `<row 49408>`."""
    if token in (BOS, EOS):
        return "<|startoftext|>" if token == BOS else "<|endoftext|>"
    symbols = _vocabulary().symbols
    if not 0 <= token < len(symbols):
        return f"<row {token}>"
    return _shown(symbols[token])


def vocabulary() -> tuple[str, ...]:
    """Every token in the order of its id, as CLIP's `vocab.json` writes it."""
    return (*_vocabulary().symbols, token_text(BOS), token_text(EOS))


def merges() -> tuple[str, ...]:
    """Every pair that is merged, the earliest learned first, as CLIP's `merges.txt` writes it."""
    return tuple(_vocabulary().ranks)


@dataclass(frozen=True)
class _Vocabulary:
    ranks: Mapping[str, int]  # "left right" -> how early the merge was learned
    symbols: Sequence[str]  # id -> symbol, in the alphabet of `_alphabet`
    ids: Mapping[str, int]  # single bytes, alone and ending a word


@cache
def _vocabulary() -> _Vocabulary:
    packed = resources.files("safelight.text").joinpath("data/bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")[1 : 1 + MERGES]
    single = [*_alphabet().values(), *(symbol + WORD_END for symbol in _alphabet().values())]
    return _Vocabulary(
        ranks={line: rank for rank, line in enumerate(lines)},
        symbols=[*single, *(line.replace(" ", "") for line in lines)],
        ids={symbol: token for token, symbol in enumerate(single)},
    )


@cache
def _alphabet() -> dict[int, str]:
    """A visible character for every byte, in the order of their ids.

    Bytes that are visible in Latin-1 stand for themselves and come first; the others are the
    characters from 256 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {
        byte: chr(256 + i) for i, byte in enumerate(hidden)
    }


@cache
def _bytes() -> dict[str, int]:
    return {symbol: byte for byte, symbol in _alphabet().items()}


def _shown(symbol: str) -> str:
    ending = WORD_END if symbol.endswith(WORD_END) else ""
    raw = bytes(_bytes()[c] for c in symbol.removesuffix(WORD_END))
    return raw.decode("utf-8", errors="backslashreplace") + ending


def _tokenized(cleaned: str, place: int, specials: Mapping[str, int]) -> Iterator[Piece]:
    for start, end in _split(cleaned, specials):
        word = cleaned[start:end]
        if word in specials:
            yield Piece(word, (specials[word],), place + start, place + end)
            continue
        # Token boundaries are known in bytes; `edges` says in which character each byte lies.
        edges = [i for i, c in enumerate(word) for _ in range(len(c.encode("utf-8")))]
        at = 0
        for token, length in _merged(word):
            first, last = edges[at], edges[at + length - 1]
            text = _shown(_vocabulary().symbols[token])
            yield Piece(text, (token,), place + start + first, place + start + last + 1)
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


def _merged(word: str) -> Sequence[tuple[int, int]]:
    """(token id, number of bytes) of the tokens of one word."""
    return _remembered(word) if len(word) <= REMEMBERED_LENGTH else _merge(word)


@lru_cache(maxsize=8192)
def _remembered(word: str) -> Sequence[tuple[int, int]]:
    return _merge(word)


def _merge(word: str) -> Sequence[tuple[int, int]]:
    """Byte-pair merging, the earliest learned pair first and from left to right.

    A merge never makes a pair that was learned earlier than itself, so a heap of pairs gives what
    scanning the word for the best pair again and again does, in n log n instead of n squared.
    """
    vocabulary = _vocabulary()
    alphabet = _alphabet()
    symbols = [alphabet[byte] for byte in word.encode("utf-8")]
    symbols[-1] += WORD_END
    tokens = [vocabulary.ids[symbol] for symbol in symbols]
    lengths = [1] * len(symbols)
    after = [*range(1, len(symbols)), -1]
    before = list(range(-1, len(symbols) - 1))
    heap: list[tuple[int, int, str]] = []

    def consider(left: int) -> None:
        if left >= 0 and after[left] >= 0:
            pair = f"{symbols[left]} {symbols[after[left]]}"
            if (rank := vocabulary.ranks.get(pair)) is not None:
                heapq.heappush(heap, (rank, left, pair))

    for left in range(len(symbols) - 1):
        consider(left)
    while heap:
        rank, left, pair = heapq.heappop(heap)
        right = after[left]
        if not lengths[left] or right < 0 or f"{symbols[left]} {symbols[right]}" != pair:
            continue  # a neighbour was merged away since
        symbols[left] += symbols[right]
        tokens[left] = 512 + rank
        lengths[left] += lengths[right]
        lengths[right] = 0
        after[left] = after[right]
        if after[left] >= 0:
            before[after[left]] = left
        consider(before[left])
        consider(left)
    return [(token, length) for token, length in zip(tokens, lengths, strict=True) if length]


def _bounded(name: str) -> bool:
    """Whether a name begins and ends with a letter or digit, and so is made of whole tokens."""
    return bool(name) and name[0].isalnum() and name[-1].isalnum()
