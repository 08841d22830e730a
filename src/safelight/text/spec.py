"""How a family turns text into what its network is told: plain data, no weights and no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from safelight.text.vocabulary import CLIP_VOCABULARY, Vocabulary

if TYPE_CHECKING:  # the configs live beside modules that import torch, which data need not pay for
    from safelight.models.clip import ClipTextConfig

CHUNK = 75  # tokens of a chunk between its start and its end

VectorKind = Literal["none", "sdxl", "refiner"]


@dataclass(frozen=True, slots=True)
class TextRole:
    """One text encoder, and what the network takes from it.

    hidden: which hidden state is the context; -1 is the output of the last block that the encoder
        has, -2 that of the block before (SDXL, and Stable Diffusion 2 where the file holds all 24).
    final_norm: whether the encoder's final layer norm is applied to that hidden state.
    pad: the id after the first end token (0 for OpenCLIP H and bigG); None is the end token again,
        as for ViT-L.
    pooled: whether the projected end-of-text row of this encoder starts the vector.
    clip_skip: whether a user's clip skip moves `hidden`. It does for SD 1 and 2; for SDXL it does
        not unless asked by name, which is A1111's rule.
    """

    encoder: ClipTextConfig
    hidden: int = -1
    final_norm: bool = True
    pad: int | None = None
    pooled: bool = False
    clip_skip: bool = True


@dataclass(frozen=True, slots=True)
class TextSpec:
    """The text side of a family: its encoders, and how their outputs become a condition.

    The hidden states of several encoders are joined along the channels, in the order of `roles`.

    vector: "none"; "sdxl" (pooled text, then the sinusoids of original height and width, crop top
        and left, target height and width); "refiner" (pooled text, then original height and width,
        crop top and left, aesthetic score).
    size_width: width of the sinusoid of each of those numbers.
    force_zeros_for_empty_negative: an empty negative prompt becomes zeros instead of the encoding
        of the empty text (the published SDXL pipelines do this).
    vocabulary: whose ids all encoders read; CLIP's but for models trained with their own.
    """

    roles: tuple[TextRole, ...]
    vector: VectorKind = "none"
    size_width: int = 256
    force_zeros_for_empty_negative: bool = False
    vocabulary: Vocabulary = CLIP_VOCABULARY


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the picture in pixels, and what SDXL and its refiner are told about it.

    original: (height, width) the training picture is said to have had; None is the picture's own.
    crop: (top, left) corner at which it is said to have been cropped.
    target: (height, width) it is said to have been scaled to; None is the picture's own.
    aesthetic_score: told to the refiner for the prompt, and `negative_aesthetic_score` for the
        negative prompt.
    """

    height: int
    width: int
    original: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int] | None = None
    aesthetic_score: float = 6.0
    negative_aesthetic_score: float = 2.5

    def numbers(self, kind: VectorKind, *, negative: bool = False) -> tuple[float, ...]:
        """The numbers that follow the pooled text in the vector, in the family's order."""
        own = (self.height, self.width)
        original = self.original or own
        if kind == "none":
            return ()
        if kind == "sdxl":
            return (*original, *self.crop, *(self.target or own))
        score = self.negative_aesthetic_score if negative else self.aesthetic_score
        return (*original, *self.crop, score)
