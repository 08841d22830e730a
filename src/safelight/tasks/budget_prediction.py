"""How long a request will take and how much memory, before anything of its model is read.

Sizes and operations are counted from the configurations (`engines.budget_work`, `budget_memory`);
rates are this machine's. What a request brings besides its model (adapters, a refiner, a CLIP,
preprocessors, upscalers) is counted for ControlNets and a second pass, and not for the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from safelight.diffusion.guidance.tiled import Windows
from safelight.diffusion.samplers import resolve_sampler
from safelight.engines.budget_memory import (
    decoder_maps,
    encoder_maps,
    folded_weights_of,
    matrices_of,
    streamed_weights_of,
    unet_maps,
    weights_of,
)
from safelight.engines.budget_rates import READING, Rates
from safelight.engines.budget_work import (
    NONE,
    Work,
    decoder_work,
    encoder_share,
    encoder_work,
    text_work,
    unet_work,
)
from safelight.engines.offload import Offload
from safelight.engines.placement import DTYPES
from safelight.families import Family
from safelight.model import Model
from safelight.models.autoencoder import AutoencoderConfig
from safelight.models.taesd import TinyAutoencoderConfig
from safelight.tasks.request import Request
from safelight.tasks.second_pass import second_of
from safelight.tasks.windows import windows_of

# What libraries keep for a moment beside the maps, and what the allocator holds on to.
WORKSPACE = 120e6
SLACK = 1.5  # times the maps
# Bytes of a weight in memory, for each of its bytes in the type that is computed in.
ENGINES: Mapping[str, float] = MappingProxyType({"eager": 1.0, "int8-weights": 0.5})
OTHER_ENGINES = 2.2  # those that make weights of their own keep both for a while
PICTURES_ALONE = 1


@dataclass(frozen=True)
class Prediction:
    """Seconds of a whole request, from now to its last picture, and bytes at the worst moment."""

    seconds: float
    nbytes: float

    def times(self, limits: "Prediction") -> float:
        """How far beyond limits it is, at its worse end; up to 1 it is within."""
        return max(self.seconds / limits.seconds, self.nbytes / limits.nbytes)


class Setup(NamedTuple):
    """What a plan chooses; none of it is a matter of what is drawn."""

    dtype: str
    engine: str = "eager"
    offload: Offload = "none"
    bands: bool = False


@dataclass(frozen=True)
class Pass:
    """One run of the sampler, of one picture: latents' height and width, calls, rows of each."""

    size: tuple[int, int]
    calls: float
    rows: int
    encodes: bool = False  # begins with a picture


def passes_of(request: Request, model: Model) -> list[Pass]:
    """The runs that a settled request of one picture comes to."""
    assert request.width is not None and request.height is not None
    source = request.source
    share = 1.0 if source is None else source.strength
    loops = 1 if source is None else source.loops
    passes = [_pass(request, model, share, encodes=source is not None)] * loops
    if request.hires is not None:
        second = second_of(request, model)
        passes.append(_pass(second, model, 1.0, encodes=True))
    return passes


def _pass(request: Request, model: Model, share: float, *, encodes: bool) -> Pass:
    assert request.width is not None and request.height is not None
    factor = model.codec.factor
    size = (request.height // factor, request.width // factor)
    sampler = resolve_sampler(request.sampler)
    calls = request.steps * share * (1 + len(request.regions))
    if sampler.fixed_steps:
        calls *= sampler.calls_per_step
    rows = _rows(request, model)
    windows = windows_of(request, model)
    if windows is not None:
        calls *= _count(windows, size)
        size = (min(windows.height, size[0]), min(windows.width, size[1]))
    return Pass(size, calls, rows, encodes)


def _rows(request: Request, model: Model) -> int:
    """Rows of a call: one, one for the negative prompt, and what guidance asks besides."""
    told_the_scale = model.family.backbone.guidance_width is not None
    rows = 1 if told_the_scale or request.cfg_scale == 1 else 2
    return rows + (request.guidance.pag is not None) + (request.guidance.sag is not None)


def _count(windows: Windows, size: tuple[int, int]) -> int:
    height, width = size
    down = _along(height, windows.height, windows.overlap)
    return down * _along(width, windows.width, windows.overlap)


def _along(length: int, side: int, overlap: int) -> int:
    return 1 if length <= side else -(-(length - overlap) // (side - overlap))


# -- time ------------------------------------------------------------------------------------------


def work_of(request: Request, model: Model) -> Work:
    """All operations of a settled request of one picture."""
    family, total = model.family, NONE
    for one in passes_of(request, model):
        call = unet_work(family.backbone, one.size, one.rows)
        aided = 1 + len(request.controls) * encoder_share(family.backbone, one.size, one.rows)
        total += call * (one.calls * aided)
        total += _coder_work(family, request, model, one)
    for role in family.text.roles:
        total += text_work(role.encoder, 2)
    return total


def layers_of(request: Request, model: Model) -> float:
    """How often a layer is called for a settled request of one picture."""
    family = model.family
    called = sum(one.calls for one in passes_of(request, model)) * matrices_of(family.backbone)
    coder = family.codec.autoencoder
    assert isinstance(coder, (AutoencoderConfig, TinyAutoencoderConfig))
    texts = sum(2 * matrices_of(role.encoder) for role in family.text.roles)
    return called + matrices_of(coder) / 2 + texts


def _coder_work(family: Family, request: Request, model: Model, one: Pass) -> Work:
    coder = family.codec.autoencoder
    if not isinstance(coder, AutoencoderConfig):
        return NONE  # tiny ones take a hundredth
    size = _latents(request, model) if request.tiles is not None else one.size
    work = decoder_work(coder, size, 1)
    return work + encoder_work(coder, size, 1) if one.encodes else work


def _latents(request: Request, model: Model) -> tuple[int, int]:
    assert request.width is not None and request.height is not None
    return request.height // model.codec.factor, request.width // model.codec.factor


def seconds_of(request: Request, model: Model, setup: Setup, rates: Rates, pictures: int) -> float:
    """How long so many pictures of a settled request take, with reading the model."""
    work = work_of(request, model)
    family = model.family
    item = DTYPES[setup.dtype].itemsize
    coder = family.codec.autoencoder
    assert isinstance(coder, (AutoencoderConfig, TinyAutoencoderConfig))
    unet = weights_of(family.backbone) * item
    others = weights_of(coder) * item
    others += sum(weights_of(role.encoder) * item for role in family.text.roles)
    read = (unet + others) / READING
    seconds = rates.seconds(work, layers_of(request, model)) * pictures
    match setup.offload:
        case "none":
            return seconds + read
        case "parts":
            return seconds + read * pictures
        case "sequential":
            calls = sum(one.calls for one in passes_of(request, model))
            return seconds + (others + unet * calls) / READING * pictures


# -- memory ----------------------------------------------------------------------------------------


def bytes_of(
    request: Request, model: Model, setup: Setup, *, base: float, pictures: int = PICTURES_ALONE
) -> float:
    """Memory at the worst moment, `base` being what the process takes without the model."""
    family, item = model.family, DTYPES[setup.dtype].itemsize
    backbone, coder = family.backbone, family.codec.autoencoder
    assert isinstance(coder, (AutoencoderConfig, TinyAutoencoderConfig))
    kept = ENGINES.get(setup.engine, OTHER_ENGINES)
    unet = weights_of(backbone) * item * kept + folded_weights_of(backbone) * item
    if setup.offload == "sequential":
        unet = streamed_weights_of(backbone) * item
    texts = sum(weights_of(role.encoder) * item * kept for role in family.text.roles)
    codec = weights_of(coder) * item
    passes = passes_of(request, model)
    steps = max(unet_maps(backbone, one.size, one.rows * pictures) for one in passes)
    sizes = [one.size for one in passes] if request.tiles is None else [_latents(request, model)]
    coding = max(decoder_maps(coder, size, 1, bands=setup.bands) for size in sizes)
    if any(one.encodes for one in passes):
        coding = max(coding, *(encoder_maps(coder, s, 1, bands=setup.bands) for s in sizes))
    if setup.offload == "none":
        weights = unet + texts + codec
        most = weights + max(steps, coding) * item * SLACK
    else:
        most = max(texts, unet + steps * item * SLACK, codec + coding * item * SLACK)
    return base + most + WORKSPACE


def predicted(
    request: Request, model: Model, setup: Setup, rates: Rates, *, base: float, pictures: int
) -> Prediction:
    """What so many pictures of a settled request take; `base` is the process's memory now.

    model: of the request, its weights need not be read.
    """
    together = min(request.batch, pictures) if not request.exact else PICTURES_ALONE
    return Prediction(
        seconds_of(request, model, setup, rates, pictures),
        bytes_of(request, model, setup, base=base, pictures=together),
    )
