"""What is put on a model for a drawing: LoRAs and their kin, learned words, hypernetworks.

Each is one group of a `Request` and names its file. What tags and words of a prompt ask for by name
is found before the drawing (`tasks.lookup`) and stands here then, too, so that a recipe knows it.
Importing this module does not import torch.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from safelight.tasks.settings import NUMBER, TEXT, FileName, Fraction, Settings

LARGEST = 100.0  # of a weight


def read_blocks(text: str) -> dict[str, float] | tuple[float, ...]:
    """Factors by block: "IN04:0.5,M00:0", or a list of numbers. Raises ValueError."""
    parts = [part.strip() for part in text.split(",")]
    if not any(":" in part for part in parts):
        return tuple(_factor(part) for part in parts)
    named: dict[str, float] = {}
    for part in parts:
        name, colon, number = part.rpartition(":")
        name = name.strip()
        if not (colon and name) or name in named:
            raise ValueError(part)
        named[name] = _factor(number)
    return named


def _factor(text: str) -> float:
    number = float(text)
    if not abs(number) <= LARGEST:
        raise ValueError(text)
    return number


def _readable(text: str) -> str:
    try:
        read_blocks(text)
    except ValueError:
        raise PydanticCustomError(
            "sentence",
            "loras: blocks must be names with factors, such as IN04:0.5,M00:0, or a list of "
            "numbers; got {text!r}.",
            {"text": text[:80]},
        ) from None
    return text


Weight = Annotated[float, Field(ge=-LARGEST, le=LARGEST), NUMBER]
Word = Annotated[str, Field(min_length=1, max_length=200), TEXT]
Blocks = Annotated[str, Field(min_length=1, max_length=2000), TEXT, AfterValidator(_readable)]


class Lora(Settings):
    """A file of changes to a model's layers: LoRA, LoCon, LoHa, LoKr, DoRA, ... (arXiv:2106.09685).

    weight: how strongly it acts; 1 is as it was taught. text_weight: on the text encoders; None is
        `weight`.
    tag: it is what `<lora:tag:...>` in the prompt asks for, and has the weights that are said
        there; without such a tag it does nothing.
    start, end: it acts on the U-Net between these fractions of the steps. The text is encoded once,
        and with it.
    blocks: further factors by block: "IN04:0.5,M00:0" or a list of numbers.
    dora: what a DoRA's magnitude is divided by: the norm of the changed weight, as in the paper, or
        of the base's, as ComfyUI does.
    """

    place = "loras."
    roles: ClassVar[Mapping[str, str]] = {"file": "lora"}
    file: FileName
    tag: Word | None = None
    weight: Weight = 1.0
    text_weight: Weight | None = None
    start: Fraction = 0.0
    end: Fraction = 1.0
    blocks: Blocks | None = None
    dora: Literal["changed", "base"] = "changed"

    @model_validator(mode="after")
    def _one_weight(self) -> Self:
        if self.tag is not None and (self.weight != 1 or self.text_weight is not None):
            raise PydanticCustomError(
                "sentence",
                "loras: what is called {tag!r} has the weight of its tag <lora:{tag}:...>; leave "
                "weight and text_weight out.",
                {"tag": self.tag},
            )
        _ordered("loras", self.start, self.end)
        return self


class Embedding(Settings):
    """A word that stands for learned vectors (textual inversion, arXiv:2208.01618).

    word: how a prompt says it; None is the file's name without its suffix.
    """

    place = "embeddings."
    roles: ClassVar[Mapping[str, str]] = {"file": "embedding"}
    file: FileName
    word: Word | None = None


class Hypernetwork(Settings):
    """Small networks that change what attention looks at, in A1111's format.

    tag: it is what `<hypernet:tag:...>` in the prompt asks for, and has the weight said there.
    """

    place = "hypernetworks."
    roles: ClassVar[Mapping[str, str]] = {"file": "hypernetwork"}
    file: FileName
    tag: Word | None = None
    weight: Weight = 1.0
    start: Fraction = 0.0
    end: Fraction = 1.0

    @model_validator(mode="after")
    def _one_weight(self) -> Self:
        if self.tag is not None and self.weight != 1:
            raise PydanticCustomError(
                "sentence",
                "hypernetworks: what is called {tag!r} has the weight of its tag "
                "<hypernet:{tag}:...>; leave weight out.",
                {"tag": self.tag},
            )
        _ordered("hypernetworks", self.start, self.end)
        return self


def _ordered(group: str, start: float, end: float) -> None:
    if start >= end:
        raise PydanticCustomError(
            "sentence",
            "{group}: start must lie before end; got start {start} and end {end}. Both are "
            "fractions of the steps.",
            {"group": group, "start": start, "end": end},
        )
