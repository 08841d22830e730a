"""One request made ready: noise levels, first noise and the denoiser that the sampler will follow.

Shapes: B pictures, C latent channels, h w latent height and width, N steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from safelight.clip.score import ClipScore, CutOuts
from safelight.condition import Condition, stack
from safelight.diffusion.denoiser import Denoise, Denoiser, Network
from safelight.diffusion.guidance import between, edited
from safelight.diffusion.guidance.clip_guided import GuidanceCost, clip_guided
from safelight.diffusion.noise import Noise
from safelight.diffusion.process import Process, Start
from safelight.diffusion.reuse import Savings
from safelight.diffusion.samplers import SamplerInfo, Step, resolve_sampler
from safelight.diffusion.schedules import resolve_schedule, truncated, without_penultimate
from safelight.engines.sentinel import Sentinel
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.control_effects import MeasuredControls
from safelight.tasks.aids import NO_AIDS, Aids, ClipAid
from safelight.tasks.call_listener import heard, overheard
from safelight.tasks.placing import hold_together
from safelight.tasks.regional import requests_of, side_by_side, unplaced
from safelight.tasks.request import Guidance, Request
from safelight.tasks.reusing import Evaluations, evaluations, merged
from safelight.tasks.stage import NOTHING, Stage, begun, held
from safelight.tasks.steering import needs_negative, rule_of, steered, timeline
from safelight.tasks.text_listener import tell
from safelight.tasks.windows import looking
from safelight.tasks.wording import Wording, encoded, read

# Diffusers scales the first noise to unit variance in these, whatever the schedule
UNIT_IN_DIFFUSERS = (
    "ddim",
    "ddpm",
    "plms",
    "dpmpp_2m",
    "dpmpp_3m",
    "dpmpp_2s",
    "dpmpp_2m_sde",
    "uni_pc",
    "uni_pc_bh2",
    "deis",
    "lcm",
    "tcd",
)


@dataclass(frozen=True)
class Plan:
    """All that the sampling loop needs, for the pictures of one batch."""

    sampler: SamplerInfo
    schedule: str
    sigmas: Tensor  # (N + 1,) float64, descending
    x: Tensor  # (B, C, h, w) float32
    noise: Noise
    denoise: Denoise
    options: dict[str, object]
    wording: Wording
    sentinel: Sentinel
    wordings: tuple[Wording, ...] = ()  # of each picture, if their prompts differ
    gauge: MeasuredControls | None = None  # what each control changed, after the steps
    cost: GuidanceCost = field(default_factory=GuidanceCost)  # of CLIP guidance, after the steps

    def steps(self) -> Iterator[Step]:
        """The sampler's steps, one after another; the sentinel is told their number."""
        if len(self.sigmas) == 1:
            return
        run = self.sampler.run(self.denoise, self.x, self.sigmas, self.noise, **self.options)
        self.sentinel.step = 1
        for number, step in enumerate(run, start=1):
            yield step
            self.sentinel.step = number + 1
        self.sentinel.step = None


def plan(
    model: Model,
    requests: Sequence[Request],
    sentinel: Sentinel,
    stage: Stage = NOTHING,
    aids: Aids = NO_AIDS,
    savings: Savings | None = None,
) -> Plan:
    """The plan of pictures that differ in nothing but their seeds, or also in prompts that may
    share a batch (`joining.joined`).

    `requests` are settled single ones (see `settle`); `stage` is what they start from besides
    noise, `aids` what helps the model; in `savings` is counted what reuse saves. Raises
    RequestError where settings and model do not fit.
    """
    request = requests[0]
    sampler = resolve_sampler(request.sampler)
    schedule, sigmas = levels(model, request, sampler, stage)
    noise = first_noise(model, requests)

    def read_of(asked: Request) -> Wording:
        return read(
            asked,
            model,
            steps=max(len(sigmas) - 1, 1),
            calls_per_step=sampler.counted_calls,
            earlier_steps=stage.earlier_steps,
        )

    words = [read_of(asked) for asked in requests_of(request)]
    beside = [(r, read_of(r)) for r in requests[1:]] if differ_in_words(requests) else []
    warnings = dict.fromkeys(warning for wording in words for warning in wording.warnings)
    notes = (*task_notes(model, stage), *unplaced(request, aids.places))
    wording = replace(words[-1], warnings=(*warnings, *notes))
    first = noise()
    evaluating = overheard(model, evaluations(request, sigmas, savings or Savings()))
    rule = _start_rule(request, sampler, schedule)
    aided = replace(model, network=replace(model.network, control_networks=aids.networks))
    # measured around all windows: a control may have nothing to say in the first of them
    gauge = MeasuredControls(looking(aided, request, sentinel)) if aids.controls else None

    def part(number: int, place: Tensor | None) -> Denoise:
        network = gauge or looking(aided, request, sentinel, place)
        asked, told = requests_of(request)[number], words[number]
        return denoiser_of(
            aided, asked, told, sigmas, sentinel, stage, aids, network, beside, evaluating
        )

    def refined(number: int, place: Tensor | None) -> Denoise:
        assert aids.refiner is not None
        network = looking(aids.refiner, request, sentinel, place)
        asked, told = requests_of(request)[number], words[number]
        return denoiser_of(
            aids.refiner,
            asked,
            told,
            sigmas,
            sentinel,
            network=network,
            beside=beside,
            evaluating=evaluating,
        )

    hold_together(model, request, aids)
    unheld = side_by_side(aids.places, part)
    if aids.refiner is not None:
        refining = side_by_side(aids.places, refined)
        unheld = between(unheld, refining, float("inf"), aids.refiner_below)
    cost = GuidanceCost()
    if aids.clip is not None:
        unheld = _climbing(unheld, model, requests, aids.clip, cost)
    return Plan(
        sampler=sampler,
        schedule=schedule,
        sigmas=sigmas,
        x=begun(stage, first, sigmas, model.process.prediction, rule),
        noise=noise,
        denoise=heard(model, held(unheld, stage, first, sigmas)),
        options=_options(sampler, request, model.process),
        wording=wording,
        sentinel=sentinel,
        wordings=tuple(
            replace(own, warnings=(*own.warnings, *notes))
            for own in ((words[-1], *(told for _, told in beside)) if beside else ())
        ),
        gauge=gauge,
        cost=cost,
    )


def differ_in_words(requests: Sequence[Request]) -> bool:
    """Whether the pictures of a batch have prompts of their own."""
    return len({(r.prompt, r.negative_prompt) for r in requests}) > 1


def _climbing(
    denoise: Denoise, model: Model, requests: Sequence[Request], aid: ClipAid, cost: GuidanceCost
) -> Denoise:
    """The denoiser that also climbs a CLIP's similarity; each picture's cut-outs are its seed's."""
    score = ClipScore(
        aid.pair,
        aid.wanted,
        model.codec.decode,
        [_concrete(request.seed) for request in requests],
        CutOuts(aid.guidance.cut_outs, whole=min(2, aid.guidance.cut_outs)),
    )
    return clip_guided(
        denoise,
        score,
        scale=aid.guidance.scale,
        gradient=aid.guidance.gradient,
        high=aid.high,
        low=aid.low,
        cost=cost,
    )


def task_notes(model: Model, stage: Stage = NOTHING) -> tuple[str, ...]:
    """What to know about a model that was not made to draw from text alone, and can."""
    if stage.latents is not None or stage.extra is not None:
        return ()
    match model.family.task:
        case "inpaint":
            return (
                f"{model.family.label} is made to repaint a part of a picture; "
                "drawing from text alone, it is told that all of an empty one is masked.",
            )
        case "refine":
            return (
                f"{model.family.label} is made to finish pictures of SDXL; "
                "drawing from text alone, it shows less than SDXL itself.",
            )
    return ()


def levels(
    model: Model, request: Request, sampler: SamplerInfo, stage: Stage = NOTHING
) -> tuple[str, Tensor]:
    """The name of the schedule that a request comes to, and its noise levels (N + 1,).

    Of a picture to start from, its strength leaves the last of them. Align Your Steps has a table
    of its own for SDXL, which is taken there, as A1111 does.
    """
    automatic = request.schedule == "automatic"
    schedule = resolve_schedule(sampler.default_schedule if automatic else request.schedule)
    if schedule.name == "align_your_steps" and model.family.text.vector != "none":
        schedule = resolve_schedule("align_your_steps_sdxl")

    def spacing(steps: int) -> Tensor:
        return schedule(model.process, steps, **request.schedule_options.given())

    planned = without_penultimate(spacing) if sampler.discard_penultimate else spacing
    if stage.strength is None:
        return schedule.name, planned(request.steps)
    if stage.strength == 0:  # A1111's rule would take one step
        return schedule.name, torch.zeros(1, dtype=torch.float64)
    return schedule.name, truncated(planned, request.steps, stage.strength, stage.rule).sigmas


def first_noise(model: Model, requests: Sequence[Request]) -> Noise:
    """The noise of a batch, one generator a picture, on the model's device."""
    request = requests[0]
    assert request.width is not None and request.height is not None
    factor = model.codec.factor
    other = request.resize_from  # (width, height) in pixels
    varied = request.subseed is not None and request.subseed_strength > 0
    return Noise(
        [_concrete(r.seed) for r in requests],
        (model.codec.channels, request.height // factor, request.width // factor),
        source=request.noise_source,
        subseeds=[_concrete(r.subseed) for r in requests] if varied else None,
        subseed_strength=request.subseed_strength,
        resize_from=(other[1] // factor, other[0] // factor) if other else None,
        eta_seed_delta=request.ensd,
        device=model.device,
    )


def denoiser_of(
    model: Model,
    request: Request,
    wording: Wording,
    sigmas: Tensor,
    sentinel: Sentinel,
    stage: Stage = NOTHING,
    aids: Aids = NO_AIDS,
    network: Network | None = None,
    beside: Sequence[tuple[Request, Wording]] = (),
    evaluating: Evaluations | None = None,
) -> Denoise:
    """The guided denoiser of a request, changing from call to call if its prompt does.

    `network` is what is asked in place of the model's own. beside: the other pictures of the batch
    if they have prompts of their own: built as this one, and of the same length. evaluating: makes
    what asks the network, if some of it is reused.
    """
    denoiser = Denoiser(network or looking(model, request, sentinel), model.process)
    rule = rule_of(request.guidance, model.process.prediction)
    scale = request.cfg_scale
    distilled_scale: Tensor | None = None
    if model.family.backbone.guidance_width is not None:
        # such a network is told the scale, and does alone what guidance would
        scale, distilled_scale = 1.0, torch.tensor([scale], device=model.device)
    weights = [part.weight for part in wording.positive.parts]
    edits = stage.bare is not None
    negated = edits or needs_negative(scale, weights)
    said = [
        (own, encoded(model, asked, own, negated=negated, sentinel=sentinel))
        for asked, own in ((request, wording), *beside)
    ]
    tell(model, {t: c for _, conditions in said for t, c in conditions.positive.items()})
    extra = stage.extra
    if extra is None and (model.family.extra_channels or model.family.task == "variation"):
        extra = whole_picture(model, request, sentinel)
    level = None if stage.level is None else torch.tensor([stage.level], device=model.device)

    def told(condition: Condition, *, negative: bool = False) -> Condition:
        drawn = replace(condition, guidance=distilled_scale, concat=extra, level=level)
        return model.network.prepared(aids.told(merged(drawn, request), negative=negative))

    def build(at: tuple[int, ...]) -> Denoise:
        positive = [
            (
                _rows(
                    [told(c.positive[own.positive.parts[k].switches[i].text]) for own, c in said]
                ),
                weight,
            )
            for k, (i, weight) in enumerate(zip(at[: len(weights)], weights, strict=True))
        ]
        negative = None
        if negated:
            texts = [(c, own.negative.parts[0].switches[at[-1]].text) for own, c in said]
            negative = _rows([told(c.negative[text], negative=True) for c, text in texts])
        if negative is not None and stage.bare is not None:
            return _edited(denoiser, positive, negative, stage.bare, request, evaluating)
        return steered(
            denoiser,
            positive,
            negative,
            scale,
            request.guidance,
            rule=rule,
            sigmas=sigmas,
            evaluating=evaluating,
        )

    parts = [*wording.positive.parts, *(wording.negative.parts if negated else ())]
    return timeline([[switch.last for switch in part.switches] for part in parts], build)


def _rows(conditions: Sequence[Condition]) -> Condition:
    """One condition of a row for each picture; that of a single prompt serves all of them."""
    return conditions[0] if len(conditions) == 1 else stack(conditions)


def _edited(
    denoiser: Denoiser,
    positive: Sequence[tuple[Condition, float]],
    negative: Condition,
    bare: Tensor,
    request: Request,
    evaluating: Evaluations | None,
) -> Denoise:
    """InstructPix2Pix's denoiser. Raises RequestError for guidance that it does not know."""
    if len(positive) > 1:
        raise RequestError("InstructPix2Pix takes one prompt; write it without AND.")
    if request.guidance != Guidance():
        raise RequestError(
            "InstructPix2Pix is guided by cfg_scale and image_cfg_scale alone; leave the other "
            "guidance settings out."
        )
    return edited(
        denoiser,
        positive[0][0],
        negative,
        replace(negative, concat=bare),
        text_scale=request.cfg_scale,
        image_scale=request.image_cfg_scale,
        evaluate=evaluating and evaluating((1, 2), request.cfg_scale),
    )


def whole_picture(model: Model, request: Request, sentinel: Sentinel) -> Tensor:
    """What an inpainting model is given when all is to be painted: mask 1, an empty picture.

    (1, 1 + C, h, w): the mask, then the latents of a grey picture, as when the whole of a picture
    is masked out. Raises RequestError for models that cannot draw from text alone.
    """
    if model.family.task != "inpaint":
        raise RequestError(
            f"{request.model or 'the model'} is {model.family.label}, which draws from a picture, "
            "not from text alone; "
            "give a text-to-image or inpainting model."
        )
    assert request.width is not None and request.height is not None
    grey = torch.zeros(1, 3, request.height, request.width, device=model.device)
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    latents = sentinel.run("VAE encoder", coder, lambda: model.codec.encode(grey).mode())
    return torch.cat([torch.ones_like(latents[:, :1]), latents], dim=1)


def _start_rule(request: Request, sampler: SamplerInfo, schedule: str) -> Start:
    if request.start in ("sigma", "unit"):
        return request.start
    if request.start == "a1111":
        return sampler.start
    unit = sampler.name in UNIT_IN_DIFFUSERS or schedule.startswith("leading")
    return "unit" if unit else "sigma"


def _options(sampler: SamplerInfo, request: Request, process: Process) -> dict[str, object]:
    options: dict[str, object] = dict(sampler.checked(request.sampler_options.given()))
    return {**options, "process": process} if sampler.takes_process else options


def _concrete(seed: int | None) -> int:
    assert seed is not None and seed >= 0
    return seed
