"""Contrastive losses in which a picture may have several right captions, and a caption pictures.

Plain InfoNCE (Radford et al. 2021, arXiv:2103.00020) holds every other row for wrong. Where many
pictures share a caption that pushes apart what belongs together; so the targets here are spread
over all that are right, as in supervised contrastive learning (Khosla et al. 2020,
arXiv:2004.11362, the form with the sum outside the logarithm). The sigmoid loss judges every pair
by itself (Zhai et al. 2023, arXiv:2303.15343).

Shapes: I pictures, T texts, K facts, P width of the embeddings. On several ranks, losses are over
the own rows against the rows of all; their mean over the ranks is the loss of the whole batch.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_LOG_SCALE = math.log(100)
UNSAID = -1
"""A fact that a caption does not mention."""


def softmax_loss(logits: Tensor, right: Tensor) -> Tensor:
    """Mean cross-entropy of each row's softmax against its right columns, equally or by weight.

    logits: (R, C), float32. right: (R, C), boolean or weights from 0; every row needs one.
    """
    weights = right.to(logits.dtype)
    targets = weights / weights.sum(1, keepdim=True)
    return -(targets * logits.log_softmax(1)).sum(1).mean()


def contrastive_loss(to_texts: Tensor, to_pictures: Tensor, right: Tensor, back: Tensor) -> Tensor:
    """CLIP's loss with several right answers: the mean of both directions.

    to_texts: logits (I, T) of the own pictures against all texts; to_pictures: (T, I) of the own
    texts against all pictures. right, back: which are right, of the same shapes.
    """
    return (softmax_loss(to_texts, right) + softmax_loss(to_pictures, back)) / 2


def sigmoid_loss(logits: Tensor, right: Tensor) -> Tensor:
    """SigLIP's loss: each pair is judged by itself; the sum over texts, the mean over rows.

    logits: (I, T) scaled cosines plus bias. right: (I, T), boolean or shares of it in [0, 1].
    """
    return (
        F.binary_cross_entropy_with_logits(logits, right.to(logits.dtype), reduction="none")
        .sum(1)
        .mean()
    )


def right_pairs(facts: Tensor, said: Tensor) -> Tensor:
    """Which captions are true of which pictures: (I, T) boolean.

    facts: (I,) or (I, K) whole numbers, what is to be seen in each picture. said: (T,) or (T, K),
    what each caption says of it, UNSAID where it says nothing.
    """
    facts, said = (keys[:, None] if keys.ndim == 1 else keys for keys in (facts, said))
    # One fact at a time: (I, T, K) would be K times the memory of the logits.
    right = torch.ones(len(facts), len(said), dtype=torch.bool, device=facts.device)
    for own, claim in zip(facts.unbind(1), said.unbind(1), strict=True):
        right &= (claim == UNSAID) | (own[:, None] == claim)
    return right


def caption_keys(tokens: Tensor) -> Tensor:
    """A whole number for each caption (B, L) -> (B,), the same for the same token ids.

    A polynomial of the ids modulo 2^64: two captions of a batch share one by chance about once in
    10^13 batches of a thousand.
    """
    powers = torch.full((tokens.shape[1],), 0x5851F42D4C957F2D, device=tokens.device).cumprod(0)
    mixed = (tokens.long() + 1) * 0x2545F4914F6CDD1D
    return ((mixed ^ (mixed >> 29)) * powers).sum(1)


def bounded_scale(log_scale: Tensor, limit: float = MAX_LOG_SCALE) -> Tensor:
    """exp(log_scale), at most exp(limit), in float32.

    At the limit the gradient still passes if it would make the scale smaller; a plain clamp would
    never let it come back.
    """
    return _AtMost.apply(log_scale.float(), limit).exp()  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def recall(logits: Tensor, right: Tensor, count: int) -> Tensor:
    """The share of rows with a right column among their `count` largest logits: a scalar."""
    best = logits.topk(min(count, logits.shape[1]), dim=1).indices
    return (right > 0).gather(1, best).any(1).float().mean()


class _AtMost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(value <= limit)
        return value.clamp(max=limit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (within,) = ctx.saved_tensors
        gradient = gradients[0]
        return gradient * (within | (gradient > 0)), None
