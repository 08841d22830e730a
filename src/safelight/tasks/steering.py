"""A request's guidance settings as one denoiser; and denoisers that change from call to call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from safelight.condition import Condition
from safelight.diffusion.denoiser import Denoise, Denoiser
from safelight.diffusion.guidance import (
    AdaptiveProjection,
    DynamicThresholding,
    Perturbation,
    Rescaled,
    Rule,
    between,
    guided,
    linear,
    self_attention_guided,
    with_freeu,
)
from safelight.diffusion.guidance.classifier_free import Evaluate
from safelight.diffusion.prediction import Prediction
from safelight.errors import RequestError
from safelight.tasks.request import Guidance
from safelight.tasks.reusing import Evaluations

Weighted = Sequence[tuple[Condition, float]]

BLOCKS = {"mid": "mid_block", "down": "down_blocks", "up": "up_blocks"}  # short names of PAG layers


def needs_negative(scale: float, weights: Sequence[float]) -> bool:
    """Whether the negative prompt has any say: not at scale 1, unless AND weights add up otherwise.

    At scale 1 it cancels out of negative + scale * sum of weight * (positive - negative).
    """
    return scale != 1 or sum(weights) != 1


def rule_of(guidance: Guidance, prediction: Prediction) -> Rule:
    """How positive and negative estimate become one. Make one for every run: APG remembers.

    Raises RequestError for two methods that cannot both decide.
    """
    rule: Rule = linear
    if guidance.thresholding is not None and guidance.apg is not None:
        raise RequestError(
            "dynamic thresholding and APG both replace the guidance formula; choose one of them."
        )
    if guidance.thresholding is not None:
        chosen = guidance.thresholding
        rule = DynamicThresholding(chosen.mimic_scale, chosen.percentile)
    if guidance.apg is not None:
        apg = guidance.apg
        rule = AdaptiveProjection(apg.eta, apg.norm_threshold, apg.momentum)
    return Rescaled(prediction, guidance.rescale, rule) if guidance.rescale else rule


def steered(
    denoiser: Denoiser,
    positive: Weighted,
    negative: Condition | None,
    scale: float,
    guidance: Guidance,
    *,
    rule: Rule,
    sigmas: Tensor,
    apart: bool = False,
    evaluating: Evaluations | None = None,
) -> Denoise:
    """The denoiser that follows the positives at `scale` with all that `guidance` asks for.

    sigmas (N + 1,) are the run's noise levels: they turn the fractions of steps between which
    guidance works into noise levels. Outside them only the positives are followed. evaluating:
    makes what asks the denoiser, once for each of the two.
    """
    if guidance.freeu is not None:
        free = guidance.freeu
        positive = [(with_freeu(c, free.b1, free.b2, free.s1, free.s2), w) for c, w in positive]
        negative = negative and with_freeu(negative, free.b1, free.b2, free.s1, free.s2)
    negated = needs_negative(scale, [weight for _, weight in positive])
    told = evaluating and evaluating((0, 1) if negated else None, scale)
    inside = _inside(
        denoiser, positive, negative, scale, guidance, rule=rule, apart=apart, evaluate=told
    )
    if guidance.start == 0 and guidance.end == 1:
        return inside
    steps = len(sigmas) - 1
    high = float(sigmas[round(guidance.start * steps)])
    low = float(sigmas[round(guidance.end * steps)])
    told = evaluating and evaluating(None, 1.0)
    outside = guided(denoiser, positive, negative, 1.0, apart=apart, evaluate=told)
    return between(inside, outside, high, low)


def _inside(
    denoiser: Denoiser,
    positive: Weighted,
    negative: Condition | None,
    scale: float,
    guidance: Guidance,
    *,
    rule: Rule,
    apart: bool,
    evaluate: Evaluate | None,
) -> Denoise:
    pag = guidance.pag
    perturbation = None
    if pag is not None:
        layers = tuple(BLOCKS.get(name, name) for name in pag.layers)
        perturbation = Perturbation(layers, pag.scale)
    if guidance.sag is None:
        return guided(
            denoiser,
            positive,
            negative,
            scale,
            rule=rule,
            perturbation=perturbation,
            apart=apart,
            evaluate=evaluate,
        )
    if pag is not None:
        raise RequestError("self-attention and perturbed-attention guidance exclude each other.")
    if len(positive) > 1:
        raise RequestError("self-attention guidance takes one prompt; write it without AND.")
    return self_attention_guided(
        denoiser, positive[0][0], negative, scale, sag_scale=guidance.sag.scale, rule=rule
    )


@dataclass(frozen=True)
class Stretch:
    """The denoiser of all calls up to and including number `last`, counted from 1."""

    last: int
    denoise: Denoise


class Timeline:
    """A denoiser that changes with the number of calls: prompts that are scheduled or alternate.

    It counts, so make one for every run. Calls past the last stretch stay with it.
    """

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self._stretches = tuple(stretches)
        self._calls = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self._calls += 1
        for stretch in self._stretches:
            if self._calls <= stretch.last:
                return stretch.denoise(x, sigma)
        return self._stretches[-1].denoise(x, sigma)


def timeline(ends: Sequence[Sequence[int]], build: Callable[[tuple[int, ...]], Denoise]) -> Denoise:
    """One denoiser from several schedules that run side by side.

    `ends[k]` are the last calls of schedule k's stretches; `build` makes the denoiser of one
    combination of stretch numbers, and is asked once for each that occurs.
    """
    made: dict[tuple[int, ...], Denoise] = {}
    stretches = []
    for last in sorted({call for schedule in ends for call in schedule}):
        at = tuple(_stretch_at(schedule, last) for schedule in ends)
        if at not in made:
            made[at] = build(at)
        stretches.append(Stretch(last, made[at]))
    return stretches[0].denoise if len(made) == 1 else Timeline(stretches)


def _stretch_at(ends: Sequence[int], call: int) -> int:
    return next((i for i, last in enumerate(ends) if call <= last), len(ends) - 1)
