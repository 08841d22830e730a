"""A prompt with one phrase left out at a time, to see what each of them does.

A phrase ends at a comma, at BREAK and AND, and before a word that ties a group of words to what
stands before it (`LINKS`: in, on, with, and, ...). What stands within brackets stays whole,
as it is one syntax: an emphasis, a schedule, a tag.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from safelight.errors import PromptError
from safelight.text.prompt import without_comments
from safelight.text.span import Dialect, checked


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LINKS = _words(
    """above against along among and around at atop before behind below beneath beside between
    beyond by during from holding in inside into near next on onto over past through toward towards
    under underneath wearing while with within without"""
)
"""Words that begin a phrase; "of" does not, as in "a glass of water"."""
MOST_PHRASES = 100
"""Beyond any strip of pictures that can be looked at."""

# What opens and closes a group that stays whole, by dialect.
_BRACKETS: dict[Dialect, dict[str, str]] = {
    "a1111": {"(": ")", "[": "]", "{": "}", "<": ">"},
    "comfy": {"(": ")", "{": "}"},
    "compel": {"(": ")", "<": ">"},
    "plain": {},
}
_TOKEN = re.compile(r"\\.|[^\W_]+(?:['’-][^\W_]+)*|\s+|.", re.DOTALL)
_TAG = re.compile(r"<[^<>]*:[^<>]*>")
_PART_WEIGHT = re.compile(r"\s*:\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ablation:
    """A prompt without one of its phrases."""

    phrase: str
    prompt: str


def ablations(prompt: str, *, dialect: Dialect = "a1111") -> tuple[Ablation, ...]:
    """The prompt without its first phrase, without its second, and so on.

    Everything else stays as it is typed, tags within the phrase (`<lora:...>`) and the weight of a
    part (`AND ... :0.5`) included; a comma beside the phrase goes with it. A prompt of one phrase
    gives one empty prompt, and an empty one nothing. Raises PromptError beyond the limits of
    `span`, or for more than 100 phrases.
    """
    text = checked(prompt)
    if dialect == "a1111":
        text = without_comments(text)[0].strip()
    pieces = _pieces(text, dialect)
    count = sum(piece.is_phrase for piece in pieces)
    if count > MOST_PHRASES:
        raise PromptError(
            f"at most {MOST_PHRASES} phrases are left out one at a time; this prompt has {count}"
        )
    return tuple(
        Ablation(_said(piece.text), _joined(pieces, at))
        for at, piece in enumerate(pieces)
        if piece.is_phrase
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """A phrase, or what stands between two: a comma, AND, BREAK, the weight of a part."""

    text: str
    kind: str  # "phrase", "comma", "word" (AND, BREAK), "weight"

    @property
    def is_phrase(self) -> bool:
        return self.kind == "phrase" and any(c.isalnum() for c in _TAG.sub("", self.text))


def _pieces(text: str, dialect: Dialect) -> list[_Piece]:
    """The text in pieces; joined they are the text."""
    found: list[_Piece] = []
    held = ""
    for token, outside in _tokens(text, dialect):
        kind = _kind(token, dialect) if outside else ""
        if kind == "link":
            if _said(held):
                found.append(_Piece(held, "phrase"))
                held = ""
            kind = ""
        if not kind:
            held += token
            continue
        found += _ended(held, kind == "word" and token == "AND")
        found.append(_Piece(token, kind))
        held = ""
    found += _ended(held, dialect == "a1111")
    return [piece for piece in found if piece.text]


def _ended(held: str, weighs: bool) -> list[_Piece]:
    """A phrase that ends, and the weight of its part (`:0.5`) if that may stand there."""
    weight = _PART_WEIGHT.search(held) if weighs else None
    if weight is None:
        return [_Piece(held, "phrase")]
    return [_Piece(held[: weight.start()], "phrase"), _Piece(weight[0], "weight")]


def _kind(token: str, dialect: Dialect) -> str:
    if token in (",", "\n"):
        return "comma"
    if token in ("AND", "BREAK") and dialect == "a1111":
        return "word"
    return "link" if token.lower() in LINKS else ""


def _tokens(text: str, dialect: Dialect) -> Iterator[tuple[str, bool]]:
    """Words, spaces and signs, and whether each stands outside all brackets."""
    closing = _partners(text, dialect)
    end = 0  # of the outermost bracket that is open
    for match in _TOKEN.finditer(text):
        end = max(end, closing.get(match.start(), 0))
        yield match[0], match.start() >= end


def _partners(text: str, dialect: Dialect) -> dict[int, int]:
    """Where each opening bracket's group ends; one that is never closed is text.

    But for A1111, where a round or square one then reaches to the end.
    """
    kinds = _BRACKETS[dialect]
    waiting: dict[str, list[int]] = {close: [] for close in kinds.values()}
    found: dict[int, int] = {}
    for match in _TOKEN.finditer(text):
        sign, at = match[0], match.start()
        if sign in kinds:
            waiting[kinds[sign]].append(at)
        elif waiting.get(sign):
            found[waiting[sign].pop()] = at + 1
    if dialect == "a1111":
        found |= {at: len(text) for close in ")]" for at in waiting[close]}
    return found


def _said(text: str) -> str:
    """A phrase for people: without tags, and without blanks around it."""
    return " ".join(_TAG.sub("", text).split())


def _joined(pieces: list[_Piece], without: int) -> str:
    """The pieces but one, with the sign that divided it from its neighbours gone, too."""
    tags = " ".join(_TAG.findall(pieces[without].text))
    kept = [piece.text for piece in pieces]
    kept[without] = f" {tags}" if tags else ""
    sign = None if tags else _sign_dropped(pieces, without)
    if sign is not None:
        kept[sign] = ""
    before, after = "".join(kept[:without]), "".join(kept[without:])
    if not after.lstrip() or after.lstrip()[0] in ",\n":
        before, after = before.rstrip(" "), after.lstrip(" ")
    return _tidied(before + after)


def _sign_dropped(pieces: list[_Piece], at: int) -> int | None:
    """Which sign goes with a phrase that stands alone between signs: the one before, or after."""
    left = pieces[at - 1].kind if at else "start"
    right = pieces[at + 1].kind if at + 1 < len(pieces) else "end"
    if left == "phrase" or right == "phrase":  # only a part of what stands between the signs
        return None
    if left == "comma":
        return at - 1
    return at + 1 if right == "comma" else None


def _tidied(text: str) -> str:
    """Without doubled blanks, parts and chunks with nothing left, and a tie to nothing."""
    parts = re.split(r"\bAND\b", text)
    if len(parts) > 1:
        said = [p for p in parts if any(c.isalnum() for c in _PART_WEIGHT.sub("", p))]
        text = "AND".join(said)
    text = re.sub(r" {2,}", " ", text).strip(" ,\n")
    text = re.sub(r"^BREAK\b|\bBREAK$", "", text).strip(" ,\n")
    return re.sub(r"^and\s+", "", text)
