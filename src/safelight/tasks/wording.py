"""A request's prompts: read, checked for what a user should know, and encoded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from safelight.condition import Condition
from safelight.diffusion.samplers import resolve_sampler
from safelight.engines.sentinel import Sentinel
from safelight.errors import RequestError
from safelight.model import Model
from safelight.tasks.idle import idle_settings
from safelight.tasks.request import Guidance, Request, Sizes
from safelight.tasks.steering import needs_negative
from safelight.text.conditioner import ROWS
from safelight.text.prompt import Prompt, parse_prompt
from safelight.text.spec import Size, VectorKind

RESTARTS_FROM = 20  # steps; with fewer `diffusion.samplers.restart` has none to spare


@dataclass(frozen=True)
class Wording:
    """Both prompts, read for the steps of one run."""

    positive: Prompt
    negative: Prompt
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Conditions:
    """The condition of every text, all of the same length."""

    positive: Mapping[str, Condition]
    negative: Mapping[str, Condition]


def read(
    request: Request,
    model: Model,
    *,
    steps: int,
    calls_per_step: int,
    earlier_steps: int | None = None,
) -> Wording:
    """The prompts of a request over so many steps, with all that was not used as warnings.

    earlier_steps: those of the first pass, if this is the second; schedules go on from there.
    Raises PromptError for a text that cannot be read.
    """
    positive, negative = (
        parse_prompt(
            text,
            steps=steps,
            dialect=request.dialect,
            calls_per_step=calls_per_step,
            earlier_steps=earlier_steps,
            negative=is_negative,
        )
        for text, is_negative in ((request.prompt, False), (request.negative_prompt, True))
    )
    warnings = [
        *positive.notes,
        *(f"negative prompt: {note}" for note in negative.notes),
        *_unapplied(request, positive),
        *unused(request, model, positive, steps),
    ]
    for name, prompt in (("", positive), ("negative prompt: ", negative)):
        for text in prompt.texts:
            report = model.text.report(
                text,
                dialect=request.dialect,
                emphasis=request.emphasis,
                clip_skip=request.clip_skip,
                force_clip_skip=request.force_clip_skip,
                comma_backtrack=request.comma_backtrack,
            )
            warnings += [name + note for note in report.notes if note not in warnings]
    return Wording(positive, negative, tuple(dict.fromkeys(warnings)))


def _unapplied(request: Request, positive: Prompt) -> Iterator[str]:
    """Tags of a prompt that nothing is put on the model for."""
    kinds = {kind: {one.tag for one in request.loras} for kind in ("lora", "lyco")}
    kinds["hypernet"] = {one.tag for one in request.hypernetworks}
    for network in positive.networks:
        if network.kind not in kinds:
            yield f"{network} is of no kind that is known here ({', '.join(kinds)}): left out."
        elif network.name not in kinds[network.kind]:
            yield (
                f"{network} was not applied: no file is given for it. Names are looked up in the "
                "prompt of the whole picture alone, and unless --no-look-up is given."
            )


def unused(request: Request, model: Model, positive: Prompt, steps: int) -> Iterator[str]:
    """What is said in a request and has no say in its picture of so many steps."""
    told_the_scale = model.family.backbone.guidance_width is not None
    scale = 1.0 if told_the_scale else request.cfg_scale
    negated = needs_negative(scale, [part.weight for part in positive.parts])
    if request.negative_prompt.strip() and not negated:
        why = "with this model, which is told" if told_the_scale else "at"
        yield f"the negative prompt has no say {why} the guidance scale {request.cfg_scale:g}."
    if scale == 1:  # also with AND: no rule is asked where the difference is not enlarged
        for method in rules_of(request.guidance):
            where = "with this model, which is told the scale" if told_the_scale else "at scale 1"
            yield f"{method} has nothing to act on {where}: nothing is guided away from."
    yield from unused_sizes(request.sizes, model.family.text.vector)
    yield from unused_by_sampler(request, steps)
    yield from idle_settings(request, model)


def rules_of(guidance: Guidance) -> Iterator[str]:
    """The methods asked for that change how positive and negative estimate become one."""
    if guidance.rescale:
        yield "guidance rescale"
    if guidance.thresholding is not None:
        yield "dynamic thresholding"
    if guidance.apg is not None:
        yield "adaptive projected guidance"


def unused_sizes(sizes: Sizes, vector: VectorKind) -> Iterator[str]:
    """What a model that is told those numbers, or none, is not told."""
    if vector == "none":
        if sizes != Sizes():
            yield (
                "original and target size, crop and score are told to SDXL only, not to this model."
            )
        return
    scores = (sizes.aesthetic_score, sizes.negative_aesthetic_score)
    if vector != "refiner" and scores != (
        Sizes().aesthetic_score,
        Sizes().negative_aesthetic_score,
    ):
        yield "the aesthetic score is told to SDXL's refiner only, not to this model."
    if vector == "refiner" and (sizes.target or sizes.negative_target):
        yield "the target size is told to SDXL's base model only, not to its refiner."


def unused_by_sampler(request: Request, steps: int) -> Iterator[str]:
    """What the sampler makes no use of in so many steps."""
    sampler, options = resolve_sampler(request.sampler), request.sampler_options
    restarts = sampler.name != "restart" or steps >= RESTARTS_FROM
    fresh = sampler.stochastic and options.eta != 0 and restarts
    if request.ensd and not (fresh or options.eta or options.s_churn):
        yield (
            f"ensd {request.ensd} does nothing: {sampler.label} draws no fresh noise, "
            "whose seed it would change."
        )
    if not restarts:
        yield (
            f"{sampler.label} restarts from {RESTARTS_FROM} steps on; with {steps} it is Heun's "
            "method."
        )


def encoded(
    model: Model, request: Request, wording: Wording, *, negated: bool, sentinel: Sentinel
) -> Conditions:
    """Every text of both prompts as a condition; the negative ones only if they have a say.

    Shorter ones are filled up with empty chunks, as A1111 does.
    Raises RequestError for a prompt of more chunks than the request allows.
    """
    encoders = nn.ModuleList(model.text.encoders)

    def condition(text: str, negative: bool) -> Condition:
        return sentinel.run(
            "text encoder",
            encoders,
            lambda: model.text.condition(
                text,
                size=size_of(request, negative=negative),
                dialect=request.dialect,
                emphasis=request.emphasis,
                clip_skip=request.clip_skip,
                force_clip_skip=request.force_clip_skip,
                negative=negative,
                comma_backtrack=request.comma_backtrack,
            ),
        )

    texts = [(text, False) for text in wording.positive.texts]
    texts += [(text, True) for text in wording.negative.texts if negated]
    conditions = [condition(text, negative) for text, negative in texts]
    _check_length(conditions, request.max_chunks)
    equal = model.text.equalised(
        conditions, clip_skip=request.clip_skip, force_clip_skip=request.force_clip_skip
    )
    pairs = list(zip(texts, equal, strict=True))
    return Conditions(
        {text: condition for (text, negative), condition in pairs if not negative},
        {text: condition for (text, negative), condition in pairs if negative},
    )


def size_of(request: Request, *, negative: bool = False) -> Size:
    """What SDXL and its refiner are told about the picture. Sizes there are (height, width)."""
    assert request.width is not None and request.height is not None
    sizes = request.sizes
    original, target = sizes.original, sizes.target
    if negative:
        original, target = sizes.negative_original or original, sizes.negative_target or target
    return Size(
        height=request.height,
        width=request.width,
        original=_turned(original),
        crop=(sizes.crop_top, sizes.crop_left),
        target=_turned(target),
        aesthetic_score=sizes.aesthetic_score,
        negative_aesthetic_score=sizes.negative_aesthetic_score,
    )


def _turned(size: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if size is None else (size[1], size[0])


def _check_length(conditions: list[Condition], limit: int) -> None:
    longest = max(c.context.shape[1] // ROWS for c in conditions)
    if longest > limit:
        raise RequestError(
            f"the prompt takes {longest} chunks of 75 tokens and max_chunks is {limit}; "
            "shorten it or raise the limit."
        )
