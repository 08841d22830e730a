"""A request's reuse and token merging: what evaluates its conditions, and what it saved."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from safelight.condition import Condition
from safelight.diffusion.deep_reuse import DeepReuse
from safelight.diffusion.guidance.classifier_free import Evaluate
from safelight.diffusion.reuse import Bounds, Reuse, Savings
from safelight.diffusion.samplers import SamplerInfo, resolve_sampler
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.deep_features import most_blocks
from safelight.tasks.recipe import Figure
from safelight.tasks.request import Request

Pair = tuple[int, int]  # numbers of the negative and the positive condition
Evaluations = Callable[[Pair | None, float], Evaluate]  # one for each place, which remembers


def evaluations(request: Request, sigmas: Tensor, savings: Savings) -> Evaluations | None:
    """What makes the evaluation of conditions for one run; None where nothing is reused.

    sigmas (N + 1,): the run's noise levels, at the last of which above 0 all is asked.
    """
    wanted = request.reuse
    if not wanted.any or len(sigmas) < 2:
        return None
    last = float(sigmas[-2] if sigmas[-1] == 0 else sigmas[-1])

    def made(pair: Pair | None, scale: float) -> Evaluate:
        if wanted.every > 1:
            return DeepReuse(wanted.every, wanted.blocks, savings, last=last)
        bounds = Bounds(wanted.steps, wanted.guidance if pair == (0, 1) else 0.0)
        return Reuse(bounds, savings, last=last, scale=scale, pair=pair)

    return made


def merged(condition: Condition, request: Request) -> Condition:
    """The condition under which tokens are merged as the request asks."""
    wanted = request.token_merging
    if wanted.ratio == 0:
        return condition
    intervention = replace(
        condition.intervention,
        merged=wanted.ratio,
        merged_levels=wanted.levels,
        merged_parts=wanted.parts,
    )
    return replace(condition, intervention=intervention)


def check_thrift(model: Model, request: Request) -> None:
    """Raise RequestError if what is to be reused or merged does not go with the rest."""
    for problem in (*_reuse_problems(model, request), *_merging_problems(model, request)):
        raise RequestError(problem)


def _reuse_problems(model: Model, request: Request) -> Iterator[str]:
    wanted = request.reuse
    if not wanted.any:
        return
    adaptive: SamplerInfo = resolve_sampler(request.sampler)
    if adaptive.name == "dpm_adaptive":
        yield (
            f"{adaptive.label} measures its error by calls that reuse would leave out; choose "
            "another sampler, or leave reuse out."
        )
    if request.guidance.sag is not None:
        yield "self-attention guidance looks into each call; leave it or reuse out."
    clip = request.clip_guidance
    if clip is not None and clip.gradient == "through":
        yield (
            "clip_guidance goes back through each call; take its gradient at the estimate, or "
            "leave reuse out."
        )
    if wanted.every == 1:
        return
    if request.tiles is not None:
        yield "reuse.every keeps features of the whole picture; leave it or tiles out."
    if request.references:
        yield "references are seen by the whole network at once; leave them or reuse.every out."
    most = most_blocks(model.network.unet)
    if wanted.blocks > most:
        yield f"reuse.blocks must be at most {most} for this model; got {wanted.blocks}."


def _merging_problems(model: Model, request: Request) -> Iterator[str]:
    wanted = request.token_merging
    if wanted.ratio == 0:
        return
    if model.network.observer is not None:
        yield "word maps need all tokens of the picture; leave token merging out."
    if request.hypernetworks:
        yield "hypernetworks add to each token; leave them or token merging out."
    levels = model.network.unet.config.levels
    if wanted.levels > levels:
        yield f"token_merging.levels must be at most {levels} for this model; got {wanted.levels}."


def saved_figures(savings: Savings, picture: int) -> tuple[Figure, ...]:
    """What reuse saved of one picture, as its recipe remembers it; nothing where it was off."""
    if picture >= len(savings.asked):
        return ()
    asked, made = savings.asked[picture], savings.made[picture]
    shallow = savings.shallow[picture]
    words = f"of {asked}" + (f", {shallow} of them by the outermost blocks" if shallow else "")
    return (
        Figure(name="network calls", value=made, words=words),
        Figure(name="largest measured change", value=round(savings.change[picture], 4)),
    )
