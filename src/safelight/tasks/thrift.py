"""Settings that save work at the cost of a bounded drift.

Importing this module does not import torch.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from safelight.tasks.settings import NUMBER, Fraction, Settings

MergedPart = Literal["self", "cross", "feed-forward"]


class Reuse(Settings):
    """What of a call of the network serves again in later ones; the defaults reuse nothing.

    steps: the estimate of the picture serves again while it would have moved by no more than this
        share of the noisy latents, as far as can be foreseen. guidance: the same of what the
        negative prompt does to it. every: the deep part of the U-Net is asked in every n-th call
        alone, in the others its outermost `blocks` residual blocks.
    """

    place = "reuse."
    steps: Fraction = 0.0
    guidance: Fraction = 0.0
    every: Annotated[int, Field(ge=1, le=100), NUMBER] = 1
    blocks: Annotated[int, Field(ge=1, le=8), NUMBER] = 1

    @property
    def any(self) -> bool:
        """Whether anything is reused."""
        return self.steps > 0 or self.guidance > 0 or self.every > 1

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.every > 1 and (self.steps or self.guidance):
            raise PydanticCustomError(
                "sentence",
                "reuse.every keeps parts of calls, and reuse.steps and reuse.guidance leave out "
                "whole ones; choose one kind.",
            )
        return self


class TokenMerging(Settings):
    """Which share of the tokens that look alike is merged before attention, and where.

    levels: so many of the U-Net's, the finest first. parts: of each transformer block.
    """

    place = "token_merging."
    ratio: Annotated[float, Field(ge=0, le=0.75), NUMBER] = 0.0
    levels: Annotated[int, Field(ge=1, le=8), NUMBER] = 1
    parts: Annotated[tuple[MergedPart, ...], Field(min_length=1, max_length=3)] = ("self",)
