"""What is said of a picture at one draw: chosen, shuffled, thinned and dressed anew each time.

All that is random depends on the run's seed, the step and the row, so nothing freezes it: a cache
of pictures leaves the words free, and a resumed run says what the unbroken one would have said.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from safelight.errors import FileError, RequestError
from safelight.printable import shown
from safelight.training.draw import Draw, stream
from safelight.training.sources.example import Example

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_NAME = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Wording:
    """How captions are made.

    templates: one is chosen at each draw. {caption} stands for one of the picture's captions,
        {name} and the like for fields of its record (of a list, one is chosen); {{ is a brace.
    shuffle: exchange the parts of a caption between `separator`s, but for the first `keep_first`.
    part_dropout: the chance of each part after the first `keep_first` to be left out.
    trigger: words put first in every caption; prefix and suffix: put around it as they are.
    dropout: the chance of no text at all. It is not applied here: the task does, since what
        stands for "no text" is the model's affair.

    Raises RequestError for what cannot be.
    """

    templates: tuple[str, ...] = ("{caption}",)
    separator: str = ", "
    shuffle: bool = False
    keep_first: int = 0
    part_dropout: float = 0.0
    trigger: str = ""
    prefix: str = ""
    suffix: str = ""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.templates:
            raise RequestError("there must be at least one caption template, such as {caption}")
        for template in self.templates:
            _ = list(_parts(template))  # raises for a brace out of place
        for name, chance in (("part_dropout", self.part_dropout), ("dropout", self.dropout)):
            if not 0 <= chance <= 1:
                raise RequestError(f"{name} must be from 0 to 1; got {chance:g}")
        if self.keep_first < 0:
            raise RequestError(f"keep_first must be 0 or more; got {self.keep_first}")
        if (self.shuffle or self.part_dropout) and not self.separator:
            raise RequestError("parts of captions need a separator between them; got none")

    @property
    def fields(self) -> frozenset[str]:
        """What the templates ask of an example; "caption" is its caption."""
        names = (name for t in self.templates for _, name in _parts(t))
        return frozenset(name for name in names if name is not None)


def captions(examples: Sequence[Example], wording: Wording, draw: Draw) -> list[str]:
    """One caption of each example for the rows of a draw. Raises FileError as `caption` does."""
    return [
        caption(example, wording, stream(draw.seed, "caption", draw.step, draw.start + row))
        for row, example in enumerate(examples)
    ]


def caption(example: Example, wording: Wording, generator: torch.Generator) -> str:
    """What is said of an example this time.

    Raises FileError if it lacks a caption or a field that the template asks for.
    """
    template = _one(wording.templates, generator)
    said = "".join(
        text + ("" if name is None else _value(example, name, wording, generator))
        for text, name in _parts(template)
    )
    if wording.trigger:
        said = f"{wording.trigger}{wording.separator}{said}" if said else wording.trigger
    return f"{wording.prefix}{said}{wording.suffix}"


def _value(example: Example, name: str, wording: Wording, generator: torch.Generator) -> str:
    if name == "caption" and example.captions:
        return _rearranged(_one(example.captions, generator), wording, generator)
    value = example.fields.get(name)
    if isinstance(value, list | tuple) and value:
        value = _one([str(v) for v in value], generator)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    known = ["caption"] if example.captions else []
    known += [k for k, v in example.fields.items() if isinstance(v, str | int | float | list)]
    raise FileError(
        f"{shown(example.id)} has no {name!r} for the caption template; it has "
        f"{', '.join(map(shown, known)) or 'no text at all'}"
    )


def _rearranged(text: str, wording: Wording, generator: torch.Generator) -> str:
    if not wording.shuffle and not wording.part_dropout:
        return text
    bare = wording.separator.strip() or wording.separator  # "a,b" has parts as "a, b" has
    parts = [part.strip() for part in text.split(bare) if part.strip()]
    kept, rest = parts[: wording.keep_first], parts[wording.keep_first :]
    if wording.part_dropout:
        stays = torch.rand(len(rest), generator=generator) >= wording.part_dropout
        rest = [part for part, stay in zip(rest, stays.tolist(), strict=True) if stay]
    if wording.shuffle:
        rest = [rest[i] for i in torch.randperm(len(rest), generator=generator).tolist()]
    return wording.separator.join([*kept, *rest])


def _one(texts: Sequence[str], generator: torch.Generator) -> str:
    if len(texts) == 1:
        return texts[0]
    return texts[int(torch.randint(len(texts), (), generator=generator))]


def _parts(template: str) -> Iterator[tuple[str, str | None]]:
    """The template as texts, each followed by the name of a field or by nothing."""
    at = 0
    for found in _FIELD.finditer(template):
        before, name = template[at : found.start()], found[1]
        at = found.end()
        if found[0] in ("{{", "}}"):
            yield before + found[0][0], None
        elif name is not None and _NAME.fullmatch(name):
            yield before, name
        else:
            raise RequestError(
                f"the caption template {template!r} has a {found[0]!r} that names no field; "
                "write {caption}, or {{ for a brace"
            )
    yield template[at:], None
