"""A whole CLIP as one value: texts and pictures to vectors that can be compared.

Radford et al. 2021 (arXiv:2103.00020). Shapes: B pictures, T texts, P width of the joint space.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.clip.preparation import Preparation, prepared
from safelight.models.clip import ClipText, ClipVision, similarity
from safelight.text.bpe import Tokenizer

LOGIT_SCALE = math.log(100.0)
"""The logarithm of the factor on cosines at most; long trainings end on it."""
TEXTS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class ClipPair:
    """A text tower and a vision tower that were trained together, with what both need.

    name: for people. logit_scale: the logarithm of the factor that turns cosines into logits.
    files: where the weights are from. notes: what the user should see, such as guesses.
    Raises ValueError for towers that do not end in one space, or a tokenizer of other tokens.
    """

    name: str
    text: ClipText
    vision: ClipVision
    tokenizer: Tokenizer
    preparation: Preparation
    logit_scale: float = LOGIT_SCALE
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        told, seen = self.text.config, self.vision.config
        if told.projection is None or told.projection != seen.projection:
            raise ValueError(
                f"the towers end in {told.projection} and {seen.projection} numbers; a pair shares"
                " one space"
            )
        if self.preparation.side != seen.image_size:
            raise ValueError(
                f"pictures are prepared to {self.preparation.side} pixels, but the tower sees "
                f"{seen.image_size}"
            )
        own = self.tokenizer.vocabulary
        if told.vocabulary < own.size or told.eos_id != own.eos:
            raise ValueError(
                f"the text tower has {told.vocabulary} tokens and end of text {told.eos_id}; the "
                f"vocabulary has {own.size} and {own.eos}"
            )

    @property
    def device(self) -> torch.device:
        """Where the vision tower is."""
        return self.vision.vision_model.embeddings.class_embedding.device

    @property
    def temperature(self) -> float:
        """What cosines are divided by to be logits: 0.01 for most CLIPs."""
        return math.exp(-self.logit_scale)

    def token_ids(self, text: str) -> tuple[int, ...]:
        """The ids of a text, framed and filled with ends of text up to the tower's context.

        What exceeds the context is cut off; `cut_tokens` says how much.
        """
        words, context = self.tokenizer.vocabulary, self.text.config.context
        own = self.tokenizer.encode(text)[: context - 2]
        return (words.bos, *own, *[words.eos] * (context - 1 - len(own)))

    def cut_tokens(self, text: str) -> int:
        """How many tokens of a text are beyond what the text tower reads."""
        return max(0, len(self.tokenizer.encode(text)) - (self.text.config.context - 2))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of plain texts: (T, P) float32. Weights and brackets are read as text."""
        where = self.text.text_model.embeddings.token_embedding.weight.device
        parts = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            rows = [self.token_ids(text) for text in texts[start : start + TEXTS_AT_ONCE]]
            pooled = self.text(torch.tensor(rows, device=where)).pooled
            assert pooled is not None
            parts.append(F.normalize(pooled.float(), dim=-1))
        width = self.text.config.projection or 0
        return torch.cat(parts) if parts else torch.zeros(0, width, device=where)

    def embed_pictures(self, images: Tensor) -> Tensor:
        """Unit vectors of pictures (B, 3, H, W) in [-1, 1]: (B, P) float32.

        Any size; see `Preparation`. Gradients reach the pixels if they are asked for.
        """
        return self.embed_views(prepared(images.to(self.device), self.preparation))

    def embed_views(self, views: Tensor) -> Tensor:
        """Unit vectors of pictures that were `prepared` already: (B, 3, S, S) -> (B, P) float32."""
        embeds = self.vision(views).embeds
        assert embeds is not None
        return F.normalize(embeds.float(), dim=-1)

    def cosines(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """The cosine of every picture (B, 3, H, W) with every text: (B, T), -1 to 1."""
        return similarity(self.embed_pictures(images), self.embed_texts(texts))

    def shares(self, cosines: Tensor) -> Tensor:
        """Cosines (..., T) as probabilities over the texts: softmax of cosine / temperature."""
        return (cosines * math.exp(self.logit_scale)).softmax(dim=-1)
