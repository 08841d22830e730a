"""The engine `openvino-int8`: most products of the U-Net in eight bits, the rest in bfloat16.

Which layers, and how their inputs are rounded, is found once for a model by drawing a few pictures
with it, and remembered. A layer stays as it is if rounding changes its output by more than `LIMIT`,
attention of many tokens to each other if by more than `ATTENTION_LIMIT`, and so do the first and
the last convolution, the embeddings and the products of the text, which cost little. Adapters put
on later are computed with the same rounding of inputs.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from safelight.condition import stack
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.schedules import normal
from safelight.engines.openvino import Flat, UNetRunner, check, decoded_by, named
from safelight.engines.openvino_eight import Scales
from safelight.engines.openvino_graph import graph_of
from safelight.engines.openvino_runtime import Compiled, compiled, precision_of, version
from safelight.engines.openvino_scales_file import kept, remembered
from safelight.engines.openvino_watching import MARGIN, SHARES, Watching, by_name, judged
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.runner import Extra
from safelight.text.spec import Size

NAME = "openvino-int8"
FORM = 2  # of what is measured and kept
LIMIT = 2.5e-3  # of the power of a layer's output: -26 dB
ATTENTION_LIMIT = 1e-4  # the same of attention, whose error varies far more between pictures
LEFT = ("conv_in", "conv_out", "embedding", "time_emb_proj", "attn2.to_k", "attn2.to_v")
# What is drawn: plain things, for the ranges of numbers hardly depend on what a picture shows.
PROMPTS = (
    "a photo of a red apple on a wooden table",
    "a smiling face",
    "a cat sleeping on a sofa, oil painting",
    "a house by the sea at night",
    "a blue car",
    "rain over a city, black and white",
    "a tree in a green field, bright daylight",
    "the word hello on a sign",
)
STEPS = 8
SCALE = 5.0
EVERY = 9  # of so many calls, one leaves pieces of what its layers saw


def applied(model: Model) -> Model:
    """The model, most of whose U-Net multiplies in eight bits; its autoencoder does not.

    The first time for a model, pictures are drawn to see its numbers, which takes as long as four
    pictures of 20 steps. Raises RequestError as `openvino.applied`, or for an upscaler, whose small
    picture there is none of.
    """
    check(model, NAME)
    runner = UNetRunner(model.network.unet, name=NAME, scales=scales_of(model))
    return replace(
        model,
        network=replace(model.network, runner=runner),
        codec=decoded_by(model.codec, NAME),
        engine=NAME,
    )


def scales_of(model: Model) -> Scales:
    """The layers of the model's U-Net that multiply in eight bits; remembered between runs."""
    key = key_of(model)
    found = remembered(key, model.network.unet)
    if found is None:
        found = measured(model)
        kept(key, found)
    return found


@torch.no_grad()
def measured(model: Model) -> Scales:
    """The same, from pictures that are drawn for it."""
    if model.family.task == "upscale":
        raise RequestError(f"engine {NAME} cannot measure an upscaler; draw with --engine openvino")
    watching = Watching(_wanted)
    watcher = _Watcher(model, watching)
    _draw(replace(model, network=replace(model.network, runner=watcher)))
    chosen = [one for one in judged(watching.seen.values()) if one.error <= LIMIT]
    attention = {name: one.judged() for name, one in watching.attentions.items()}
    return Scales(
        by_name(chosen),
        {
            name: rounding
            for name, (rounding, error) in attention.items()
            if error <= ATTENTION_LIMIT
        },
    )


def _wanted(layer: str, weight: Tensor) -> bool:
    return weight.ndim in (2, 4) and not any(name in layer for name in LEFT)


class _Watcher:
    """A runner for calls of one shape that gathers what layers see."""

    name = NAME
    extras: frozenset[Extra] = frozenset()
    frozen = True

    def __init__(self, model: Model, watching: Watching) -> None:
        self.unet = model.network.unet
        self.watching = watching
        self.calls = 0
        self._compiled: Compiled | None = None

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        **told: object,
    ) -> Tensor:
        given = named(x, time, context, vector, told)
        if self._compiled is None:
            graph = graph_of(Flat(self.unet, tuple(given)), given, self.watching)
            self._compiled = compiled(graph, precision_of(self.unet.dtype))
        output, *seen = self._compiled.results(list(given.values()))
        self.watching.gather(seen, keep=self.calls % EVERY == 0)
        self.calls += 1
        return output


def _draw(model: Model) -> None:
    """Pictures of the prompts from noise, with guidance, by Euler's method."""
    side = model.family.native_size // model.codec.factor
    size = Size(side * model.codec.factor, side * model.codec.factor)
    denoiser = Denoiser(model.network, model.process)
    sigmas = normal(model.process, STEPS).tolist()
    config = model.network.unet.config
    extra = config.in_channels - model.codec.channels
    for number, prompt in enumerate(PROMPTS):
        rng = torch.Generator().manual_seed(number)
        condition = stack([model.text([text], [size]) for text in ("", prompt)])
        if extra:
            condition = replace(condition, concat=_nothing_known(extra, side))
        if config.guidance_width is not None:
            condition = replace(condition, guidance=torch.full((2,), SCALE))
        if config.vector_width is not None and condition.vector is None:  # of a picture
            vector = torch.randn(1, config.vector_width, generator=rng).expand(2, -1)
            condition = replace(condition, vector=vector)
        x = torch.randn(1, model.codec.channels, side, side, generator=rng) * sigmas[0]
        for sigma, lower in pairwise(sigmas):
            level = torch.tensor([sigma, sigma], dtype=torch.float64)
            without, with_prompt = denoiser(torch.cat([x, x]), level, condition).chunk(2)
            denoised = without + SCALE * (with_prompt - without)
            x = denoised + (lower / sigma) * (x - denoised)


def _nothing_known(channels: int, side: int) -> Tensor:
    """The extra channels of a U-Net that is told of no picture: all of it is masked."""
    concat = torch.zeros(2, channels, side, side)
    concat[:, 0] = 1.0
    return concat


def key_of(model: Model) -> str:
    """64 hex digits that are the same only for equal weights, programs and settings."""
    family = model.family
    lines = [
        f"{FORM} {version()} {LIMIT} {ATTENTION_LIMIT} {MARGIN} {SHARES} {LEFT}",
        f"{PROMPTS} {STEPS} {SCALE} {EVERY}",
        f"{family.native_size} {type(model.process.prediction).__name__}",
        repr(model.network.unet.config),
        *(file.sha256 for file in model.files if file.role in ("model", "unet")),
    ]
    total = hashlib.sha256("\n".join(lines).encode())
    for part in _weights(model):
        total.update(part)
    return total.hexdigest()


def _weights(model: Model) -> Iterator[bytes]:
    """Of a model from files the beginning of every weight, which tells which of a file's weights
    they are (such as an average over training); of others all of them."""
    whole = not any(file.role in ("model", "unet") for file in model.files)
    for name, weight in sorted(model.network.unet.state_dict().items()):
        yield f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode()
        flat = weight.detach().contiguous().reshape(-1)
        flat = flat if whole else flat[:64]
        if flat.numel():
            yield flat.view(torch.uint8).numpy().tobytes()
