"""Dynamic prompts: `{a|b}`, `{2$$a|b|c}`, `{1-3$$ and $$a|b|c}`, `{2::a|b}` and `__wildcards__`.

The syntax is that of the sd-dynamic-prompts extension. Choices come from SHA-256 of the seed and a
count, so the same seed gives the same text on every machine and with every version of Python.
Braces without `|` or `$$`, and braces that do not pair, stay in the text.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from safelight.errors import PromptError
from safelight.text.span import MAX_CHARACTERS, MAX_DEPTH, checked, checked_weight, too_deep
from safelight.text.wildcards import Wildcards

MAX_CHOICES = 10_000
MAX_WILDCARDS = 32  # wildcards within wildcards; more is a circle
SEPARATOR = ", "

_MARKS = re.compile(
    r"(?P<escape>\\[{}|\\])|__(?P<wildcard>[^\s_](?:[^\s_{}|]|_(?!_)){0,200})__|(?P<mark>[{}|\[\]])"
)
_BOUNDS = re.compile(r"\s*(?P<low>\d{1,6})?(?P<range>-)?(?P<high>\d{1,6})?\s*\$\$")
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)::", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Wildcard:
    name: str


@dataclass(frozen=True, slots=True)
class _Variant:
    """`low` to `high` of the options, joined by the separator."""

    options: tuple["_Option", ...]
    low: int = 1
    high: int = 1
    separator: str = SEPARATOR


_Node = str | _Wildcard | _Variant


@dataclass(frozen=True, slots=True)
class _Option:
    nodes: tuple[_Node, ...]
    weight: float = 1.0


def expand(text: str, seed: int, wildcards: Wildcards | None = None) -> str:
    """One text, with every choice made by the seed.

    Without wildcards, `__name__` stays in the text. Raises PromptError for a wildcard that is not
    there, for wildcards that hold each other, and beyond the limits.
    """
    return checked(_Drawing(seed, wildcards).text(_parsed(checked(text)), 0))


def combinations(text: str, wildcards: Wildcards | None = None) -> Iterator[str]:
    """Every text that `expand` can give, but for the order of several options: that is as written.

    There may be very many: take as many as you need. An option of weight 0 is left out.
    """
    return _product(_parsed(checked(text)), wildcards, 0)


def is_dynamic(text: str, wildcards: Wildcards | None = None) -> bool:
    """Whether the text holds a choice to make."""
    nodes = _parsed(checked(text))
    kinds = (_Variant,) if wildcards is None else (_Variant, _Wildcard)
    return any(isinstance(node, kinds) for node in nodes)


@dataclass
class _Drawing:
    """The choices of one expansion."""

    seed: int
    wildcards: Wildcards | None
    made: int = 0
    length: int = 0

    def text(self, nodes: Sequence[_Node], depth: int) -> str:
        parts: list[str] = []
        for node in nodes:
            if isinstance(node, str):
                parts.append(node)
                self.length += len(node)
                if self.length > 4 * MAX_CHARACTERS:
                    raise PromptError("the dynamic prompt grows without end. Shorten it.")
            elif isinstance(node, _Variant):
                parts.append(self.variant(node, depth))
            else:
                parts.append(self.wildcard(node, depth))
        return "".join(parts)

    def variant(self, node: _Variant, depth: int) -> str:
        options, inner = _flattened(node, self.wildcards, depth)
        high = min(node.high, sum(option.weight > 0 for option in options))
        low = min(node.low, high)
        count = low + int(self.fraction() * (high - low + 1)) if low < high else high
        texts = []
        left = list(options)
        for _ in range(count):
            chosen = self.pick([option.weight for option in left])
            texts.append(self.text(left.pop(chosen).nodes, inner))
        return node.separator.join(texts)

    def wildcard(self, node: _Wildcard, depth: int) -> str:
        if self.wildcards is None:
            return f"__{node.name}__"
        options = _values(node, self.wildcards, depth)
        chosen = self.pick([option.weight for option in options])
        return self.text(options[chosen].nodes, depth + 1)

    def pick(self, weights: Sequence[float]) -> int:
        """An index, as often as its weight says."""
        sums = list(itertools.accumulate(weights))
        at = self.fraction() * sums[-1]
        return next(i for i, total in enumerate(sums) if at < total)

    def fraction(self) -> float:
        """A number in [0, 1) that depends on the seed and on how many were drawn before."""
        self.made += 1
        if self.made > MAX_CHOICES:
            raise PromptError(f"a dynamic prompt may hold {MAX_CHOICES:,} choices. Shorten it.")
        digest = hashlib.sha256(f"{self.seed}:{self.made}".encode()).digest()
        return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _flattened(
    node: _Variant, wildcards: Wildcards | None, depth: int
) -> tuple[tuple[_Option, ...], int]:
    """The options; `{2$$__name__}` chooses among the values of the wildcard."""
    sole = node.options[0].nodes if len(node.options) == 1 else ()
    if wildcards is not None and len(sole) == 1 and isinstance(sole[0], _Wildcard):
        return _values(sole[0], wildcards, depth), depth + 1
    return node.options, depth


def _values(node: _Wildcard, wildcards: Wildcards, depth: int) -> tuple[_Option, ...]:
    if depth >= MAX_WILDCARDS:
        raise PromptError(f"the wildcard __{node.name}__ leads back to itself.")
    options = tuple(_option(list(_parsed(checked(value)))) for value in wildcards.values(node.name))
    if not any(option.weight for option in options):
        raise PromptError(f"the wildcard __{node.name}__ has no line to choose.")
    return options


def _product(nodes: Sequence[_Node], wildcards: Wildcards | None, depth: int) -> Iterator[str]:
    """Texts of nodes in a row; halves keep the recursion shallow."""
    if len(nodes) > 1:
        half = len(nodes) // 2
        for left in _product(nodes[:half], wildcards, depth):
            for right in _product(nodes[half:], wildcards, depth):
                yield left + right
    elif not nodes:
        yield ""
    elif isinstance(nodes[0], str):
        yield nodes[0]
    elif isinstance(nodes[0], _Variant):
        yield from _choices(nodes[0], wildcards, depth)
    elif wildcards is None:
        yield f"__{nodes[0].name}__"
    else:
        for option in _values(nodes[0], wildcards, depth):
            if option.weight:
                yield from _product(option.nodes, wildcards, depth + 1)


def _choices(node: _Variant, wildcards: Wildcards | None, depth: int) -> Iterator[str]:
    options, inner = _flattened(node, wildcards, depth)
    possible = [option for option in options if option.weight]
    high = min(node.high, len(possible))
    for count in range(min(node.low, high), high + 1):
        for chosen in itertools.combinations(possible, count):
            yield from _joined(chosen, node.separator, wildcards, inner)


def _joined(
    chosen: Sequence[_Option], separator: str, wildcards: Wildcards | None, depth: int
) -> Iterator[str]:
    """Texts of several options with separators; halves keep the recursion shallow."""
    if len(chosen) > 1:
        half = len(chosen) // 2
        for left in _joined(chosen[:half], separator, wildcards, depth):
            for right in _joined(chosen[half:], separator, wildcards, depth):
                yield left + separator + right
    else:
        yield from _product(chosen[0].nodes if chosen else (), wildcards, depth)


@dataclass(slots=True)
class _Open:
    """A brace that is not closed yet."""

    options: list[list[_Node]] = field(default_factory=lambda: [[]])
    brackets: int = 0  # square ones: the | of an alternation [a|b] is not ours


def _parsed(text: str) -> tuple[_Node, ...]:
    found: list[_Node] = []
    waiting: list[_Open] = []
    end = 0

    def add(node: _Node) -> None:
        (waiting[-1].options[-1] if waiting else found).append(node)

    for match in _MARKS.finditer(text):
        if match.start() > end:
            add(text[end : match.start()])
        end = match.end()
        mark = match["mark"]
        if match["escape"]:
            # A backslash before a brace is ours to read; one before another is the dialect's.
            add(match["escape"][1:] if match["escape"] in ("\\{", "\\}") else match["escape"])
        elif match["wildcard"]:
            add(_Wildcard(match["wildcard"]))
        elif mark == "{":
            waiting.append(_Open())
            if len(waiting) > MAX_DEPTH:
                raise too_deep()
        elif mark == "}" and waiting:
            for node in _closed(waiting.pop()):
                add(node)
        elif mark == "|" and waiting and not waiting[-1].brackets:
            waiting[-1].options.append([])
        else:
            if waiting and mark in "[]":
                waiting[-1].brackets = max(0, waiting[-1].brackets + (1 if mark == "[" else -1))
            add(mark)
    if end < len(text):
        add(text[end:])
    for group in waiting:
        found += _literal(group, "{")
    return tuple(found)


def _closed(group: _Open) -> list[_Node]:
    first = group.options[0]
    opening = first[0] if first and isinstance(first[0], str) else ""
    bounds = _BOUNDS.match(opening)
    if bounds is None:
        if len(group.options) == 1:
            return [*_literal(group, "{"), "}"]
        return [_variant(group.options, 1, 1, SEPARATOR)]
    separator, marked, rest = opening[bounds.end() :].partition("$$")
    if not marked:
        separator, rest = SEPARATOR, opening[bounds.end() :]
    first[0] = rest
    low = int(bounds["low"] or 1)
    no_end = MAX_CHOICES if bounds["range"] else low  # "2-" is two or more
    high = int(bounds["high"]) if bounds["high"] else no_end
    return [_variant(group.options, min(low, high), max(low, high), separator)]


def _variant(options: Sequence[list[_Node]], low: int, high: int, separator: str) -> _Variant:
    read = tuple(map(_option, options))
    if not any(option.weight for option in read):
        raise PromptError("every option of a dynamic prompt has weight 0. Leave one to choose.")
    return _Variant(read, low, high, separator)


def _option(nodes: list[_Node]) -> _Option:
    """An option with the weight that may stand before it, as `2::a`."""
    weight = _WEIGHT.match(nodes[0]) if nodes and isinstance(nodes[0], str) else None
    if weight is None:
        return _Option(tuple(node for node in nodes if node != ""))
    rest = weight.string[weight.end() :]
    return _Option(
        tuple(n for n in (rest, *nodes[1:]) if n != ""), checked_weight(float(weight[1]))
    )


def _literal(group: _Open, opening: str) -> list[_Node]:
    nodes: list[_Node] = [opening]
    for at, option in enumerate(group.options):
        nodes += ["|", *option] if at else option
    return nodes
