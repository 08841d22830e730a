"""A group of settings that checks itself, and the kinds of values that settings have.

Importing this module does not import torch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from safelight.errors import RequestError
from safelight.tasks.complaint import complaint

SEED_LIMIT = 2**64  # what a torch generator takes


def _not_a_truth_value(value: object) -> object:
    """Refuse True and False where a number is meant: Python counts them as 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "must be a number")
    return value


def _storable(text: str) -> str:
    """Refuse what neither a PNG chunk nor UTF-8 can hold, so that every text can be written.

    Half surrogate pairs are already refused by the length constraint, which counts in UTF-8.
    """
    if "\0" in text:
        raise PydanticCustomError("unstorable", "NUL character")
    return text


def _multiple_of_8(size: int) -> int:
    if size % 8:
        below = size - size % 8
        near = f"nearest are {below} and {below + 8}" if below else "nearest is 8"
        raise PydanticCustomError(
            "multiple_of_8",
            "must be a multiple of 8; got {size}. The {near}.",
            {"size": size, "near": near},
        )
    return size


# The plain constraints stand first: only so do they reach the JSON schema under standard names.
NUMBER = BeforeValidator(_not_a_truth_value)
TEXT = AfterValidator(_storable)
Prompt = Annotated[str, Field(max_length=50_000), TEXT]
Name = Annotated[str, Field(min_length=1, max_length=64), TEXT]
FileName = Annotated[str, Field(min_length=1, max_length=4096), TEXT]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|xpu(:[0-9]{1,3})?|cuda(:[0-9]{1,3})?)$")]
Side = Annotated[int, Field(ge=8, le=8192), AfterValidator(_multiple_of_8), NUMBER]
Length = Annotated[int, Field(ge=0, le=65536), NUMBER]  # of a training picture: any number
Seed = Annotated[int, Field(ge=-1, le=SEED_LIMIT - 1), NUMBER]
Fraction = Annotated[float, Field(ge=0, le=1), NUMBER]


class Settings(BaseModel):
    """A group of settings that says in one line what is wrong with a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    place: ClassVar[str] = ""  # where a request holds this group; every group has one place
    roles: ClassVar[Mapping[str, str]] = {}  # settings that name a file, and the file's role

    if not TYPE_CHECKING:  # the type checker keeps the signature made from the fields

        def __init__(self, /, **values: object) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise RequestError(complaint(type(self), error, place=self.place)) from None

    def replace(self, **changes: object) -> Self:
        """The same settings with some changed, and all checked again. Raises RequestError.

        What was left open before and is not changed stays open; see `Request.suited`.
        """
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**given, **changes})

    def spelled_out(self) -> Self:
        """The same settings, none of them left open."""
        return type(self)(**dict(self))
