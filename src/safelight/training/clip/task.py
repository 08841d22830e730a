"""The task of teaching a CLIP: pictures and captions by contrast, language from a teacher.

A batch may hold pairs, phrases with a teacher's vectors, or both. The contrast is among the rows
of one call on all ranks: with accumulation, each micro-batch has its own, smaller contrast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.training.clip import distillation
from safelight.training.clip.augment import cropped, roughened, thinned
from safelight.training.clip.contrastive import (
    bounded_scale,
    caption_keys,
    contrastive_loss,
    recall,
    right_pairs,
    sigmoid_loss,
)
from safelight.training.clip.gathering import gathered, own_rows, ranks
from safelight.training.clip.network import ClipFeatures, ClipNetwork
from safelight.training.draw import Draw
from safelight.training.task import Loss

PLAYER = "clip"


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Pairs, phrases of a teacher, or both; everything on one device.

    groups, said: what is to be seen in each picture, and what its caption says of it (UNSAID, -1,
        where it says nothing); see `right_pairs`. Without `said` a caption says all of it, so that
        pairs of one group are right for each other. Equal captions always are.
    """

    pictures: Tensor | None = None  # (B, 3, H, W) in [-1, 1]
    tokens: Tensor | None = None  # (B, L) int64
    groups: Tensor | None = None  # (B,) or (B, K) int64
    said: Tensor | None = None  # as groups
    phrase_tokens: Tensor | None = None  # (N, L') int64; N a multiple of B where there are pairs
    phrase_vectors: Tensor | None = None  # (N, W) unit vectors


@dataclass(frozen=True, slots=True)
class ClipSettings:
    """How the parts of the loss weigh, and how pictures and captions are changed.

    taught: weight of the cosine to the teacher's vectors. matched: weight of matching the teacher's
    cosines within the batch. crop: smallest share of a picture's area that is seen. blur, noise:
    see `roughened`. thinned: share of tokens that are left out.
    """

    loss: Literal["softmax", "sigmoid"] = "softmax"
    taught: float = 1.0
    matched: float = 1.0
    matching: distillation.Matching = "kl"
    temperature: float = 0.1
    crop: float = 0.7
    blur: float = 1.0
    noise: float = 0.05
    thinned: float = 0.05


@dataclass(frozen=True)
class ClipTask:
    """A CLIP's loss: contrast of pictures and captions, and distillation on phrases."""

    network: ClipNetwork
    settings: ClipSettings = field(default_factory=ClipSettings)

    @property
    def players(self) -> Mapping[str, nn.Module]:
        return {PLAYER: self.network}

    def plays(self, player: str, step: int) -> bool:
        return True

    def loss(self, player: str, batch: ClipBatch, draw: Draw) -> Loss:
        """The loss of a batch with pairs, phrases or both.

        Raises ValueError for neither, and RequestError if ranks do not share the rows equally.
        """
        if batch.pictures is None and batch.phrase_tokens is None:
            raise ValueError("a batch of CLIP holds pictures, phrases or both; got neither")
        if draw.total % ranks():
            raise RequestError(
                f"the contrast needs as many rows on each of {ranks()} processes; got a batch of"
                f" {draw.total}. Give a multiple of {ranks()}."
            )
        pictures, tokens, phrases = self.changed(batch, draw)
        features = self.network(pictures, tokens, phrases)
        parts = [torch.zeros((), device=features.log_scale.device)]
        figures: dict[str, Tensor] = {}
        if batch.pictures is not None:
            contrast, shown = self.contrast(features, batch)
            parts.append(contrast)
            figures |= shown
        if batch.phrase_tokens is not None:
            distilled, shown = self.distilled(features, batch)
            parts.append(distilled)
            figures |= shown
        return Loss(sum(parts[1:], parts[0]), figures)

    def changed(
        self, batch: ClipBatch, draw: Draw
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Pictures, tokens and phrases as the network is shown them; untouched in evaluation."""
        how, pictures, tokens = self.settings, batch.pictures, batch.tokens
        phrases = batch.phrase_tokens
        if not self.network.training:
            return pictures, tokens, phrases
        eos = self.network.text.config.eos_id
        if pictures is not None:
            pictures = cropped(pictures, self.network.vision.config.image_size, how.crop, draw)
            pictures = roughened(pictures, how.blur, how.noise, draw)
        if tokens is not None:
            chance = draw.uniform("clip thinning", tokens.shape[1], device=tokens.device)
            tokens = thinned(tokens, how.thinned, eos, chance)
        if phrases is not None:
            # rows of the batch have one phrase each, or several
            rows = draw.rows.stop - draw.rows.start
            each = (len(phrases) // rows, phrases.shape[1])
            chance = draw.uniform("clip phrases", *each, device=phrases.device).flatten(0, 1)
            phrases = thinned(phrases, how.thinned, eos, chance)
        return pictures, tokens, phrases

    def contrast(
        self, features: ClipFeatures, batch: ClipBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The contrastive loss of the own pairs among those of all ranks, and recalls."""
        assert features.pictures is not None and features.texts is not None
        assert batch.tokens is not None
        pictures, texts = (
            F.normalize(x.float(), dim=-1) for x in (features.pictures, features.texts)
        )
        scale = bounded_scale(features.log_scale)
        to_texts = scale * pictures @ gathered(texts).T
        right, back = _right(batch)
        if self.settings.loss == "sigmoid":
            loss = sigmoid_loss(to_texts + features.bias.float(), right)
            to_pictures = (scale * texts @ gathered(pictures).T).detach()
        else:
            to_pictures = scale * texts @ gathered(pictures).T
            loss = contrastive_loss(to_texts, to_pictures, right, back)
        figures = {
            "contrastive": loss.detach(),
            "scale": scale.detach(),
            "picture_recall@1": recall(to_pictures, back, 1),
            "picture_recall@5": recall(to_pictures, back, 5),
            "text_recall@1": recall(to_texts, right, 1),
            "text_recall@5": recall(to_texts, right, 5),
        }
        return loss, figures

    def distilled(
        self, features: ClipFeatures, batch: ClipBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The distillation loss of the own phrases, and its parts."""
        assert features.phrases is not None and features.taught is not None
        assert batch.phrase_vectors is not None
        how, student, teacher = self.settings, features.phrases, batch.phrase_vectors.float()
        cosine = distillation.cosine_loss(features.taught, teacher)
        matching = distillation.matching_loss(
            (student, gathered(student)),
            (teacher, gathered(teacher)),
            first=own_rows(len(student)).start,
            kind=how.matching,
            temperature=how.temperature,
        )
        figures = {"taught": cosine.detach(), "matched": matching.detach()}
        return how.taught * cosine + how.matched * matching, figures


def _right(batch: ClipBatch) -> tuple[Tensor, Tensor]:
    """All captions that are right for the own pictures; all pictures that are for the captions."""
    assert batch.tokens is not None
    captions = caption_keys(batch.tokens)
    all_captions = gathered(captions)
    same = captions[:, None] == all_captions
    if batch.groups is None:
        return same, same
    said = batch.groups if batch.said is None else batch.said
    right = right_pairs(batch.groups, gathered(said)) | same
    return right, right_pairs(gathered(batch.groups), said).T | same
