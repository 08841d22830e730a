"""A byte-pair vocabulary in CLIP's form: 256 bytes, the same ending a word, what is merged of them.

Ids follow from the merges alone: 0 to 255 single bytes, 256 to 511 the same at the end of a word,
from 512 one for each merge in the order learned, and last start and end of text. CLIP's own has
48,894 merges, and so 49,408 ids (Radford et al. 2021, arXiv:2103.00020). Its file of merges is
OpenAI's (MIT licence, see NOTICE).
"""

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

from safelight.errors import CheckpointError
from safelight.printable import shown

WORD_END = "</w>"
START_TEXT = "<|startoftext|>"
END_TEXT = "<|endoftext|>"
SINGLE = 512  # ids of single bytes, alone and ending a word
VERSION = "#version: 0.2"
_CLIP_MERGES = 49152 - 256 - 2  # of the file's lines; those after were never given an id

Merge = tuple[str, str]


@dataclass(frozen=True, eq=False, repr=False)
class Vocabulary:
    """The pairs that are merged, the earliest learned first, in the letters of `alphabet`.

    Vocabularies are equal if their merges are. Raises ValueError for a merge of what is no symbol
    at that point, or one whose result is a symbol already.
    """

    merges: tuple[Merge, ...]

    def __post_init__(self) -> None:
        known = set(_singles())
        for rank, (left, right) in enumerate(self.merges):
            both = left + right
            if left not in known or right not in known or left.endswith(WORD_END):
                raise ValueError(
                    f"merge {rank} joins {left!r} and {right!r}, which are not both known by then"
                )
            if both in known:
                raise ValueError(f"merge {rank} makes {both!r}, which there is already")
            known.add(both)

    @property
    def size(self) -> int:
        """How many ids there are."""
        return SINGLE + len(self.merges) + 2

    @property
    def bos(self) -> int:
        """The id of the start of text."""
        return self.size - 2

    @property
    def eos(self) -> int:
        """The id of the end of text."""
        return self.size - 1

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Every token in the order of its id, as `vocab.json` writes it."""
        return (*_singles(), *(left + right for left, right in self.merges), START_TEXT, END_TEXT)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """The id of every token: what `vocab.json` holds."""
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def ranks(self) -> Mapping[Merge, int]:
        """How early each merge was learned, from 0."""
        return {merge: rank for rank, merge in enumerate(self.merges)}

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the merges, one "left right" a line: 64 hex digits."""
        return hashlib.sha256(merges_text(self).encode("utf-8")).hexdigest()

    def text(self, token: int) -> str:
        """A token for people: bytes that are no whole character are written \\xff.

        Ids beyond the vocabulary, of rows added to the token embedding, read `<row 49408>`.
        """
        if token >= self.bos:
            return self.tokens[token] if token < self.size else f"<row {token}>"
        if token < 0:
            return f"<row {token}>"
        symbol = self.tokens[token]
        ending = WORD_END if symbol.endswith(WORD_END) else ""
        raw = bytes(_bytes()[c] for c in symbol.removesuffix(WORD_END))
        return raw.decode("utf-8", errors="backslashreplace") + ending

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Vocabulary) or self.size != other.size:
            return False  # CLIP's merges are not unpacked for a vocabulary that has fewer
        return self.merges == other.merges

    def __hash__(self) -> int:
        return hash(self.size)  # cheap, and equal vocabularies have equal sizes

    def __repr__(self) -> str:
        return f"Vocabulary({self.size} tokens, {self.digest[:12]})"


class _Shipped(Vocabulary):
    """CLIP's, unpacked when it is first asked for: most imports never do."""

    def __init__(self) -> None:
        """Nothing yet."""

    @cached_property
    def merges(self) -> tuple[Merge, ...]:
        packed = resources.files("safelight.text").joinpath("data/bpe_simple_vocab_16e6.txt.gz")
        lines = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")
        return tuple(_parted(line) for line in lines[1 : 1 + _CLIP_MERGES])

    @property
    def size(self) -> int:
        return SINGLE + _CLIP_MERGES + 2


CLIP_VOCABULARY: Vocabulary = _Shipped()
"""CLIP's own, of every published Stable Diffusion."""


@cache
def alphabet() -> Mapping[int, str]:
    """A visible character for every byte, in the order of their ids.

    Bytes that are visible in Latin-1 stand for themselves and come first; the others are the
    characters from 256 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {
        byte: chr(256 + i) for i, byte in enumerate(hidden)
    }


# -- files ---------------------------------------------------------------------------------------


def merges_text(vocabulary: Vocabulary) -> str:
    """The merges, one "left right" a line: what follows the first line of `merges.txt`."""
    return "".join(f"{left} {right}\n" for left, right in vocabulary.merges)


def merges_file(vocabulary: Vocabulary) -> str:
    """The text of a `merges.txt` as Transformers reads it."""
    return f"{VERSION}\n{merges_text(vocabulary)}"


def vocabulary_of(merges: str, ids: Mapping[str, object] | None = None) -> Vocabulary:
    """The vocabulary of a `merges.txt`, or of its lines without the first.

    ids: what the `vocab.json` beside it holds, which must give every token the id that follows from
    the merges. Raises CheckpointError for lines that are no merges of CLIP's form and for ids in
    another order.
    """
    try:
        vocabulary = Vocabulary(tuple(_merges(merges)))
    except ValueError as error:
        raise CheckpointError(
            f"{shown(str(error), 160)}; expected the merges of a CLIP tokenizer"
        ) from None
    if ids is not None:
        check_ids(vocabulary, ids)
    return CLIP_VOCABULARY if vocabulary == CLIP_VOCABULARY else vocabulary


def check_ids(vocabulary: Vocabulary, ids: Mapping[str, object]) -> None:
    """Refuse the ids of a `vocab.json` that are not those of this vocabulary.

    Raises CheckpointError naming the first token that differs.
    """
    if ids == vocabulary.ids:
        return
    if len(ids) != vocabulary.size:
        raise CheckpointError(
            f"there are {len(ids)} tokens and {len(vocabulary.merges)} merges; a CLIP tokenizer of "
            f"so many merges has {vocabulary.size} tokens"
        )
    token = next(token for token in vocabulary.tokens if ids.get(token) != vocabulary.ids[token])
    raise CheckpointError(
        f"token {shown(token)} has the id {shown(ids.get(token))}; in a CLIP tokenizer with these "
        f"merges it has {vocabulary.ids[token]}, so this tokenizer is of another kind"
    )


def _merges(text: str) -> Iterator[Merge]:
    lines = text.split("\n")  # not splitlines(): it parts at characters that tokens may hold
    if lines[0].startswith("#version"):
        del lines[0]
    while lines and not lines[-1].strip():
        del lines[-1]
    for line in lines:
        yield _parted(line.removesuffix("\r"))


def _parted(line: str) -> Merge:
    left, _, right = line.partition(" ")
    if not left or not right or " " in right:
        raise ValueError(f"the line {line!r} is not two symbols with a space between")
    return left, right


@cache
def _singles() -> tuple[str, ...]:
    letters = tuple(alphabet().values())
    return (*letters, *(letter + WORD_END for letter in letters))


@cache
def _bytes() -> Mapping[str, int]:
    return {symbol: byte for byte, symbol in alphabet().items()}
