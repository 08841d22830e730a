"""Guidance by several conditions: classifier-free guidance and its relatives.

Shapes: B pictures, C latent channels, h w latent height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from safelight.condition import Condition, active, bounded, expand, stack, stackable
from safelight.diffusion.denoiser import Denoise, Denoiser
from safelight.diffusion.guidance.rules import Rule, linear
from safelight.errors import RequestError

Positive = Condition | Sequence[tuple[Condition, float]]


@dataclass(frozen=True)
class Perturbation:
    """Perturbed-attention guidance: away from a network that cannot see how things are arranged.

    `layers` are module names as in `Intervention.identity_attention`; `scale` is the paper's s.
    Ahn et al. 2024 (arXiv:2403.17377), eq. 13.
    """

    layers: tuple[str, ...]
    scale: float = 3.0

    def of(self, condition: Condition) -> Condition:
        """The condition under which the network attends to nothing but the place itself."""
        intervention = replace(condition.intervention, identity_attention=self.layers)
        return replace(condition, intervention=intervention)


def guided(
    denoiser: Denoiser,
    positive: Positive,
    negative: Condition | None,
    scale: float,
    *,
    rule: Rule = linear,
    perturbation: Perturbation | None = None,
    apart: bool = False,
    evaluate: "Evaluate | None" = None,
) -> Denoise:
    """A denoiser that follows `positive` and leaves `negative`, `scale` times as far.

    At scale 1 the negative is neither needed nor evaluated, and the result is the conditional
    one bit for bit. Several positives with weights compose as A1111's AND (Liu et al. 2022,
    arXiv:2206.01714): negative + scale * sum of weight * (positive - negative).
    Conditions that are stackable share one network call, unless `apart`: then each has its own,
    at half the memory and with the same bits as a call on that condition alone.
    evaluate: what asks the denoiser, the negative first, in place of `evaluated`.
    Raises RequestError if the scale needs a negative and there is none, or without positives.
    """
    ask = evaluate or evaluated
    parts = _weighted(positive)
    positives = [condition for condition, _ in parts]
    weights = [weight for _, weight in parts]
    # With a total weight of 1 the negatives cancel at scale 1; with another one they do not.
    needs_negative = scale != 1 or sum(weights) != 1
    if needs_negative and negative is None:
        raise RequestError(
            f"guidance at scale {scale} needs a negative condition; give one (the empty prompt), "
            "or set the scale to 1."
        )
    negatives = [negative] if needs_negative and negative is not None else []
    perturbed = [perturbation.of(c) for c in positives] if perturbation else []
    conditions = [*negatives, *positives, *perturbed]

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        outputs = ask(denoiser, conditions, x, sigma, apart=apart)
        below = outputs[: len(negatives)]
        above = outputs[len(negatives) : len(negatives) + len(positives)]
        result = _composed(above, weights, below[0] if below else None)
        if below and scale != 1:
            result = rule(result, below[0], scale, x, sigma)
        if perturbation is not None:
            changes = zip(weights, above, outputs[-len(perturbed) :], strict=True)
            for weight, seeing, blind in changes:
                result = result + perturbation.scale * weight * (seeing - blind)
        return result

    return denoise


def edited(
    denoiser: Denoiser,
    full: Condition,
    picture: Condition,
    nothing: Condition,
    *,
    text_scale: float = 7.5,
    image_scale: float = 1.5,
    apart: bool = False,
    evaluate: "Evaluate | None" = None,
) -> Denoise:
    """Three-way guidance of instruct-pix2pix: nothing -> picture only -> picture and text.

    Brooks et al. 2022 (arXiv:2211.09800), eq. 3. When both scales are 1 only `full` is evaluated.
    evaluate: what asks the denoiser, in that order, in place of `evaluated`.
    """
    ask = evaluate or evaluated
    if text_scale == image_scale == 1:
        return guided(denoiser, full, None, 1, evaluate=evaluate)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        conditions = (nothing, picture, full)
        none, seen, told = ask(denoiser, conditions, x, sigma, apart=apart)
        return none + image_scale * (seen - none) + text_scale * (told - seen)

    return denoise


class Evaluate(Protocol):
    """Gives the estimate (B, C, h, w) under each condition, as `evaluated` does."""

    def __call__(
        self,
        denoiser: Denoiser,
        conditions: Sequence[Condition],
        x: Tensor,
        sigma: Tensor,
        *,
        apart: bool = False,
    ) -> list[Tensor]: ...


def evaluated(
    denoiser: Denoiser,
    conditions: Sequence[Condition],
    x: Tensor,
    sigma: Tensor,
    *,
    apart: bool = False,
) -> list[Tensor]:
    """The estimate (B, C, h, w) under each condition, with as few network calls as possible."""
    batch = x.shape[0]
    whole = [expand(condition, batch) for condition in _acting(conditions, sigma)]
    results: dict[int, Tensor] = {}
    for group in _groups(whole, apart):
        count = len(group)
        if count == 1:
            results[group[0]] = denoiser(x, sigma, whole[group[0]])
            continue
        stacked = denoiser(
            x.repeat(count, 1, 1, 1),
            sigma.expand(batch).repeat(count),
            stack([whole[i] for i in group]),
        )
        results |= zip(group, stacked.chunk(count), strict=True)
    return [results[i] for i in range(len(conditions))]


def _acting(conditions: Sequence[Condition], sigma: Tensor) -> Sequence[Condition]:
    """The conditions without what does not act at this level, so that more of them share a call."""
    if not any(bounded(condition) for condition in conditions):
        return conditions
    levels = set(sigma.flatten().tolist())
    if len(levels) > 1:
        return conditions  # the denoiser sorts it out for each picture
    (level,) = levels
    return [active(condition, level) for condition in conditions]


def _groups(conditions: Sequence[Condition], apart: bool) -> list[list[int]]:
    groups: list[list[int]] = []
    for i, condition in enumerate(conditions):
        for group in groups:
            if not apart and stackable([conditions[group[0]], condition]):
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _weighted(positive: Positive) -> list[tuple[Condition, float]]:
    if isinstance(positive, Condition):
        return [(positive, 1.0)]
    if not positive:
        raise RequestError("guidance needs at least one positive condition; got none.")
    return list(positive)


def _composed(
    positives: Sequence[Tensor], weights: Sequence[float], negative: Tensor | None
) -> Tensor:
    """negative + sum of weight * (positive - negative); one positive of weight 1 is itself."""
    if len(positives) == 1 and weights[0] == 1:
        return positives[0]
    if negative is None:
        # the weights add up to 1
        return torch.stack([w * p for w, p in zip(weights, positives, strict=True)]).sum(0)
    changes = [w * (p - negative) for w, p in zip(weights, positives, strict=True)]
    return negative + torch.stack(changes).sum(0)
