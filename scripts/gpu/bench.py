#!/usr/bin/env python3
"""Time our U-Net, autoencoder and whole pictures beside Diffusers': same weights, same process.

    python scripts/gpu/bench.py --out bench.jsonl                # cuda, about two minutes
    python scripts/gpu/bench.py --out bench.jsonl --only sd15-fp16,picture
    python scripts/gpu/bench.py --out bench.jsonl --only sdxl --compile-large
    python scripts/gpu/bench.py --out bench.jsonl --only training --training
    python scripts/gpu/bench.py --device cpu --small             # a dry run; its times say nothing
    python scripts/gpu/bench.py --list

Weights are at random, with the last layer scaled so that outputs have unit deviation; both networks
hold the very same tensors. Nobody is timed whose output is not that of Diffusers' eager network: in
root mean square the difference must be below 0.02 (fp16) or 0.16 (bf16) of its deviation. Pictures
that differ are timed and marked, for rounding adds up over steps.

Contenders of a case take turns: a round of calls each, then the next round. One JSON line a
contender: the median, shortest and longest round in milliseconds a call, and `times_diffusers`, the
median over rounds of what Diffusers' plain eager call takes over what this one takes.

`peak_gib` is the contender's own weights and the most that a call adds to the memory that is
allocated; of training, all that is allocated. `compile_s` is the time of the first three calls.
Cheap cases come first, compiled ones last. Cases that the file of --out holds are skipped, so an
interrupted run goes on; a line with an error counts as held. Without Diffusers ours are timed all
the same, and unchecked.
"""

import argparse
import copy
import gc
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import safelight
from safelight.checkpoints.model_json import vae_to_json
from safelight.checkpoints.unet_json import unet_to_json
from safelight.condition import Condition
from safelight.engines.placement import DTYPES, resolve_device
from safelight.families import FAMILIES, Family
from safelight.model import Model
from safelight.models.autoencoder import Codec
from safelight.models.backbone import Backbone
from safelight.models.clip import ClipText
from safelight.models.layers import timestep_embedding
from safelight.models.unet import UNet
from safelight.tasks.generate import generate, settled
from safelight.tasks.plan import first_noise
from safelight.tasks.request import Request
from safelight.text.conditioner import Conditioner

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("random_model", HERE.parent / "random_model.py")
assert spec is not None and spec.loader is not None
random_model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(random_model)

# Root mean square difference from Diffusers' eager network, in deviations of its output. The
# largest of millions of differences may be ten times that.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1.6e-1}
NEAR = 0.1  # mean difference of two pictures, in deviations of the pixels
GIB = 1 << 30
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


# -- where and how ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """What all cases share: where they run, how large, and how often."""

    device: torch.device
    small: bool
    rounds: int
    seconds: float  # of a round

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def family(self, name: str) -> Family:
        family: Family = random_model.small(FAMILIES[name]) if self.small else FAMILIES[name]
        return family

    def side(self, pixels: int) -> int:
        """The side of latents for pictures of this size."""
        return pixels // (64 if self.small else 8)

    def dtype(self, name: str) -> torch.dtype:
        """A dry run computes fp16 in bf16, for which CPUs have kernels."""
        return DTYPES[name if self.cuda else "bf16"]

    def compile_options(self, mode: str | None) -> dict[str, Any]:
        """A dry run without a GPU traces and does not build kernels."""
        if not self.cuda:
            return {"backend": "eager"}
        return {} if mode is None else {"mode": mode}

    def calls(self, seconds: float) -> int:
        """How many calls of so many seconds make a round."""
        return max(1, round(self.seconds / seconds))

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)


@cache
def has_diffusers() -> bool:
    """Whether Diffusers can be imported; if not, the reason is printed once."""
    try:
        import diffusers

        for name in ("UNet2DConditionModel", "AutoencoderKL"):
            getattr(diffusers, name)  # imported when first asked for
    except Exception as error:
        say({"note": f"diffusers cannot be imported, only ours is timed: {first_line(error)}"})
        return False
    diffusers.utils.logging.set_verbosity_error()
    return True


def utilisation() -> str | None:
    """What the driver says of the GPU's load before anything is timed."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ", ".join(found.stdout.split("\n")).strip(", ") or None


def machine(setup: Setup) -> dict[str, object]:
    """What every line says of where it was measured."""
    facts: dict[str, object] = {
        "gpu": torch.cuda.get_device_name(setup.device) if setup.cuda else "none: a dry run",
        "gpu_busy_before": utilisation() if setup.cuda else None,
        "small": setup.small,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "safelight": safelight.__version__,
        "diffusers": None,
    }
    if has_diffusers():
        import diffusers

        facts["diffusers"] = diffusers.__version__
    return facts


# -- the same network twice ------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Our module and Diffusers' on the same tensors; `theirs` is None without Diffusers."""

    ours: nn.Module
    theirs: nn.Module | None


def unets(setup: Setup, family: Family, dtype: torch.dtype) -> Pair:
    ours = built(setup, lambda: UNet(family.backbone), dtype)
    given = unet_inputs(setup, family, dtype, batch=2, pixels=512)
    enlivened(ours.conv_out, lambda: ours(given.latents, given.time, given.context, given.vector))
    if not has_diffusers():
        return Pair(ours, None)
    from diffusers import UNet2DConditionModel

    sample = family.native_size // family.codec.factor
    json = unet_to_json(family.backbone, sample_size=sample, size_width=family.text.size_width)
    return Pair(ours, twin(ours, UNet2DConditionModel, json))


def autoencoders(setup: Setup, family: Family, dtype: torch.dtype) -> Pair:
    ours: Any = built(setup, lambda: family.codec.autoencoder.build(), dtype)
    latents = noise(setup, dtype, 1, family.codec.channels, setup.side(512), setup.side(512))
    enlivened(ours.decoder.conv_out, lambda: ours.decode(latents), 0.4)
    if not has_diffusers():
        return Pair(ours, None)
    from diffusers import AutoencoderKL

    json = vae_to_json(family.codec, native_size=family.native_size)
    return Pair(ours, twin(ours, AutoencoderKL, json))


def built(setup: Setup, make: Callable[[], Any], dtype: torch.dtype) -> Any:
    """A module for inference with the same weights at random at every call."""
    torch.manual_seed(0)
    with torch.device(setup.device):
        module = make()
    return module.to(dtype).eval().requires_grad_(False)


@torch.no_grad()
def enlivened(last: nn.Module, call: Callable[[], Tensor], deviation: float = 1.0) -> None:
    """Scale the last layer so that outputs have this deviation."""
    factor = deviation / float(call().float().std())
    for weight in last.parameters():
        weight.mul_(factor)


def twin(ours: nn.Module, kind: Any, json: Mapping[str, object]) -> nn.Module:
    """Diffusers' class with our tensors, not copies of them."""
    with torch.device("meta"):
        theirs: nn.Module = kind.from_config(dict(json))
    theirs.load_state_dict(ours.state_dict(), assign=True)
    return theirs.eval().requires_grad_(False)


@dataclass(frozen=True)
class UnetInputs:
    """What both U-Nets are asked."""

    latents: Tensor
    time: Tensor
    context: Tensor
    vector: Tensor | None  # for ours: pooled text and the sinusoids of the sizes
    added: dict[str, Tensor] | None  # the same for Diffusers


def unet_inputs(
    setup: Setup, family: Family, dtype: torch.dtype, batch: int, pixels: int
) -> UnetInputs:
    config, side = family.backbone, setup.side(pixels)
    latents = noise(setup, dtype, batch, config.in_channels, side, side)
    context = noise(setup, dtype, batch, 77, config.context_width)
    time_ = torch.linspace(801, 501, batch, device=setup.device).round()
    vector = added = None
    if config.vector_width is not None:
        width = family.text.size_width
        pooled = noise(setup, dtype, batch, config.vector_width - 6 * width)
        sizes = torch.tensor([[1024, 1024, 0, 0, 1024, 1024]] * batch, device=setup.device)
        sinusoids = timestep_embedding(sizes.float(), width).flatten(1)
        vector = torch.cat([pooled, sinusoids.to(dtype)], dim=1)
        added = {"text_embeds": pooled, "time_ids": sizes.to(dtype)}
    return UnetInputs(latents, time_, context, vector, added)


def noise(setup: Setup, dtype: torch.dtype, *shape: int) -> Tensor:
    """The same unit normals at every call for the same shape."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return drawn.to(setup.device, dtype)


# -- contenders ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """One who is timed. `call` does the work; `read` makes a tensor of what it gave."""

    name: str
    call: Callable[[], Any]
    modules: Sequence[nn.Module]
    read: Callable[[Any], Tensor] = lambda result: result
    compile_s: float | None = None

    @property
    def who(self) -> str:
        return "diffusers" if self.name.startswith("diffusers") else "ours"

    @property
    def graphed(self) -> bool:
        return self.name.endswith(("recorded", "reduce-overhead"))

    @property
    def weights(self) -> int:
        """Bytes."""
        return sum(p.numel() * p.element_size() for m in self.modules for p in m.parameters())


@dataclass
class Bench:
    """Networks that were built or compiled, kept for the next case of the same family."""

    setup: Setup
    _family: str = ""
    _kept: dict[tuple[object, ...], Any] = field(default_factory=dict)

    def hold(self, family: str) -> None:
        """Forget those of other families: their memory may be needed."""
        if family != self._family:
            self.clear()
        self._family = family

    def clear(self) -> None:
        self._kept.clear()
        torch._dynamo.reset()
        tidy(self.setup)

    def kept(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def unets(self, family: str, dtype: str) -> Pair:
        def make() -> Pair:
            return unets(self.setup, self.setup.family(family), self.setup.dtype(dtype))

        pair: Pair = self.kept((family, "unet", dtype), make)
        return pair

    def autoencoders(self, family: str, dtype: str) -> Pair:
        def make() -> Pair:
            return autoencoders(self.setup, self.setup.family(family), self.setup.dtype(dtype))

        pair: Pair = self.kept((family, "vae", dtype), make)
        return pair

    def last(self, module: nn.Module) -> nn.Module:
        """A copy whose weights are in channels_last."""

        def make() -> nn.Module:
            return copy.deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

        found: nn.Module = self.kept(("channels_last", id(module)), make)
        return found


def tidy(setup: Setup) -> None:
    gc.collect()
    if setup.cuda:
        torch.cuda.empty_cache()


Variant = tuple[str, str]  # ours or diffusers, and how: "", channels_last, compiled, ...

EAGER: tuple[Variant, ...] = (
    ("ours", ""),
    ("diffusers", ""),
    ("ours", "channels_last"),
    ("diffusers", "channels_last"),
)


def unet_contenders(
    bench: Bench, family: str, dtype: str, batch: int, pixels: int, variants: Sequence[Variant]
) -> Iterator[Callable[[], Contender]]:
    """Those of a U-Net, each made when asked for: compiling may fail."""
    setup = bench.setup
    pair = bench.unets(family, dtype)
    given = unet_inputs(setup, setup.family(family), setup.dtype(dtype), batch, pixels)

    def ask(who: str, module: Any) -> Callable[[], Tensor]:
        if who == "ours":
            return lambda: module(given.latents, given.time, given.context, given.vector)
        return lambda: module(
            given.latents,
            given.time,
            encoder_hidden_states=given.context,
            added_cond_kwargs=given.added,
            return_dict=False,
        )[0]

    for who, how in variants:
        module = pair.ours if who == "ours" else pair.theirs
        if module is not None:
            key = (family, dtype, batch, pixels, who, how)
            yield lambda w=who, h=how, m=module, k=key: contender(bench, w, h, m, ask, k)


def decoder_contenders(
    bench: Bench, dtype: str, pixels: int, variants: Sequence[Variant]
) -> Iterator[Callable[[], Contender]]:
    setup = bench.setup
    pair = bench.autoencoders("sd15", dtype)
    channels, side = setup.family("sd15").codec.channels, setup.side(pixels)
    latents = noise(setup, setup.dtype(dtype), 1, channels, side, side)

    def ask(who: str, module: Any) -> Callable[[], Tensor]:
        if who == "ours":
            return lambda: module.decode(latents)
        return lambda: module.decode(latents, return_dict=False)[0]

    for who, how in variants:
        module = pair.ours if who == "ours" else pair.theirs
        if module is not None:
            key = ("vae", dtype, pixels, who, how)
            yield lambda w=who, h=how, m=module, k=key: contender(bench, w, h, m, ask, k)


def contender(
    bench: Bench,
    who: str,
    how: str,
    module: nn.Module,
    ask: Callable[[str, Any], Callable[[], Tensor]],
    key: tuple[object, ...],
) -> Contender:
    """One of `module`: as it is, in channels_last, as a recorded graph, or compiled."""
    setup = bench.setup
    name = who if not how else f"{who}, {how}"
    if "channels_last" in how:
        module = bench.last(module)
    if "compiled" in how or "reduce-overhead" in how:
        mode = "reduce-overhead" if "reduce-overhead" in how else None

        def make() -> tuple[Callable[[], Tensor], float]:
            options = setup.compile_options(mode)
            call = ask(who, torch.compile(module, dynamic=False, **options))
            began = time.perf_counter()
            for _ in range(3):
                call()
                setup.wait()
            return call, time.perf_counter() - began

        call, seconds = bench.kept(("compiled", *key), make)
        return Contender(name, call, (module,), compile_s=round(seconds, 2))
    if how == "recorded":
        call = bench.kept(("recorded", *key), lambda: recorded(setup, ask(who, module)))
        return Contender(name, call, (module,))
    return Contender(name, ask(who, module), (module,))


def recorded(setup: Setup, call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The eager call as one CUDA graph, without a compiler."""
    if not setup.cuda:
        return call
    stream = torch.cuda.Stream(setup.device)
    stream.wait_stream(torch.cuda.current_stream(setup.device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream(setup.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replayed() -> Tensor:
        graph.replay()
        return result

    return replayed


# -- whole pictures --------------------------------------------------------------------------------


class GivenText(Conditioner):
    """The two conditions of a prompt and of the empty one, as if they had been encoded before."""

    def __init__(self, family: Family, told: Condition, empty: Condition) -> None:
        with torch.device("meta"):
            encoders = [ClipText(role.encoder) for role in family.text.roles]
        super().__init__(family.text, encoders)
        self._told, self._empty = told, empty

    def condition(self, text: str, **settings: Any) -> Condition:
        return self._told if text.strip() else self._empty


def picture_contenders(
    bench: Bench, dtype: str, count: int, steps: int
) -> Iterator[Callable[[], Contender]]:
    """Euler at guidance 7, from given text embeddings and first noise to pixels of 8 bits."""
    setup = bench.setup
    family = setup.family("sd15")
    unet, coder = bench.unets("sd15", dtype), bench.autoencoders("sd15", dtype)
    width = family.backbone.context_width
    states = noise(setup, torch.float32, 2, 77, width)
    text = GivenText(family, Condition(states[:1]), Condition(states[1:]))
    network = Backbone(unet.ours)  # type: ignore[arg-type]
    codec = Codec(coder.ours, family.codec)  # type: ignore[arg-type]
    model = Model(family, text, network, codec, family.process.build())
    side = setup.side(512) * family.codec.factor
    request = Request(
        prompt="given",
        width=side,
        height=side,
        steps=steps,
        cfg_scale=7.0,
        sampler="Euler",
        schedule="Uniform",
        seed=1,
        count=count,
        batch=count,
    )

    def ours() -> Any:
        return list(generate(model, request))

    def read(pictures: Any) -> Tensor:
        for picture in pictures:
            assert not picture.warnings, picture.warnings
        return torch.from_numpy(np.stack([picture.pixels for picture in pictures]))

    yield lambda: Contender("ours", ours, (unet.ours, coder.ours), read)
    if unet.theirs is None or coder.theirs is None:
        return
    first = first_noise(model, settled(request, model))()
    yield lambda: their_pictures(setup, dtype, unet.theirs, coder.theirs, states, first, request)  # type: ignore[arg-type]


def their_pictures(
    setup: Setup,
    dtype: str,
    unet: nn.Module,
    coder: nn.Module,
    states: Tensor,
    first: Tensor,
    request: Request,
) -> Contender:
    """Diffusers' pipeline on the same embeddings and first noise."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=coder,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    told, latents = (tensor.to(setup.dtype(dtype)) for tensor in (states, first))

    def call() -> Any:
        return pipeline(
            prompt_embeds=told[:1],
            negative_prompt_embeds=told[1:],
            num_images_per_prompt=request.count,
            num_inference_steps=request.steps,
            guidance_scale=request.cfg_scale,
            height=request.height,
            width=request.width,
            latents=latents,
        ).images

    def read(images: Any) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(image) for image in images]))

    return Contender("diffusers", call, (unet, coder), read)


# -- taking turns ----------------------------------------------------------------------------------

Line = dict[str, object]


@torch.no_grad()
def compared(
    setup: Setup,
    makers: Iterable[Callable[[], Contender]],
    *,
    rounds: int,
    pictures: int = 0,
) -> Iterator[Line]:
    """A line for each contender: checked against Diffusers' eager one, then timed in turns.

    pictures: how many a call makes; 0 where it is a tensor that is compared.
    """
    ready: list[tuple[Contender, Tensor, float]] = []
    for number, maker in enumerate(makers):
        name = f"number {number}"
        try:
            made = maker()
            name = made.name
            output = made.read(made.call()).detach().clone()
            ready.append((made, output, block(setup, made.call, 1)))
        except Exception as error:
            yield {"contender": name, "error": first_line(error)}
    if not ready:
        return
    reference = next((output for c, output, _ in ready if c.who == "diffusers"), ready[0][1])
    able: list[tuple[Contender, Line, float]] = []
    for one, output, guess in ready:
        line = apart_in_pixels(output, reference) if pictures else apart(output, reference)
        line = {"contender": one.name, **line}
        if "error" in line:
            yield line
        else:
            able.append((one, line, guess))
    plain = next((one for one, _, _ in able if one.name in ("ours", "diffusers")), None)
    flops = None if pictures or plain is None else counted(plain)
    peaks = [peak(setup, one) for one, _, _ in able]
    times = turns(setup, [(one.call, guess) for one, _, guess in able], rounds)
    theirs = next((i for i, (one, _, _) in enumerate(able) if one.name == "diffusers"), None)
    for i, (one, line, guess) in enumerate(able):
        middle = statistics.median(times[i])
        line |= {
            "who": one.who,
            "ms": round(1e3 * middle, 4),
            "ms_min": round(1e3 * min(times[i]), 4),
            "ms_max": round(1e3 * max(times[i]), 4),
            "rounds": len(times[i]),
            "calls_a_round": setup.calls(guess),
            "times_diffusers": None,
            "peak_gib": peaks[i],
            "weights_gib": round(one.weights / GIB, 3),
        }
        if theirs is not None:
            ratios = [b / a for a, b in zip(times[i], times[theirs], strict=True)]
            line["times_diffusers"] = round(statistics.median(ratios), 4)
        if one.compile_s is not None:
            line["compile_s"] = one.compile_s
        if flops is not None:
            line["gflop"] = round(flops / 1e9, 2)
            line["tflop_s"] = round(flops / middle / 1e12, 2)
        if pictures:
            line["pictures_s"] = round(pictures / middle, 3)
        yield line


def apart(output: Tensor, reference: Tensor) -> Line:
    """How far the output is from the reference's, in its deviations; an error if too far."""
    away = (output.float() - reference.float()) / reference.float().std()
    typical = float(away.square().mean()) ** 0.5
    found: Line = {
        "apart": round(typical, 6),
        "apart_largest": round(float(away.abs().max()), 6),
    }
    if not typical <= TOLERANCE[reference.dtype]:  # a NaN, too
        found["error"] = f"other work: {typical:.3g} deviations from Diffusers' output"
    return found


def apart_in_pixels(output: Tensor, reference: Tensor) -> Line:
    """The same for pictures, in levels of 255. Too far is told, and timed: it may be rounding."""
    away = (output.float() - reference.float()).abs()
    deviation, mean = float(reference.float().std()), float(away.mean())
    return {
        "largest_pixel_difference": int(away.max()),
        "mean_pixel_difference": round(mean, 4),
        "pixel_deviation": round(deviation, 2),
        "same": mean <= NEAR * deviation,
    }


def counted(one: Contender) -> int | None:
    """Floating-point operations of matrix products, convolutions and attention in one call."""
    try:
        with FlopCounterMode(display=False) as counter:
            one.call()
        total: int = counter.get_total_flops()
        return total or None
    except Exception as error:
        say({"note": f"operations were not counted: {first_line(error)}"})
        return None


def peak(setup: Setup, one: Contender) -> float | None:
    """GiB: the contender's weights, and the most that one call adds to what is allocated.

    None for recorded graphs, whose memory stays allocated between calls.
    """
    if not setup.cuda or one.graphed:
        return None
    setup.wait()
    before = torch.cuda.memory_allocated(setup.device)
    torch.cuda.reset_peak_memory_stats(setup.device)
    one.call()
    setup.wait()
    added = torch.cuda.max_memory_allocated(setup.device) - before
    return round((one.weights + added) / GIB, 3)


def turns(
    setup: Setup, calls: Sequence[tuple[Callable[[], object], float]], rounds: int
) -> list[list[float]]:
    """Seconds a call: for each contender, one number a round. A round of each, then the next.

    With each call comes about how many seconds it takes.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for mine, (call, guess) in zip(times, calls, strict=True):
            mine.append(block(setup, call, setup.calls(guess)))
    return times


def block(setup: Setup, call: Callable[[], object], count: int) -> float:
    """Seconds a call, of so many one after another; the device is idle before and after."""
    setup.wait()
    began = time.perf_counter()
    for _ in range(count):
        call()
    setup.wait()
    return (time.perf_counter() - began) / count


# -- training --------------------------------------------------------------------------------------


def training(setup: Setup, batch: int, rounds: int, steps: int) -> Iterator[Line]:
    """Steps of the whole U-Net: bf16 autocast, mean squared error, fused AdamW.

    There is room for one of them at a time, so each is built anew for its turn.
    """
    names = ["ours", "diffusers"] if has_diffusers() else ["ours"]
    times: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, float] = {}
    peaks: dict[str, float | None] = {}
    for _ in range(rounds):
        for name in names:
            tidy(setup)
            if setup.cuda:
                torch.cuda.reset_peak_memory_stats(setup.device)
            losses[name], seconds = trained(setup, name, batch, steps)
            times[name].append(seconds)
            peaks[name] = None
            if setup.cuda:
                peaks[name] = round(torch.cuda.max_memory_allocated(setup.device) / GIB, 3)
    tidy(setup)
    for name in names:
        middle = statistics.median(times[name])
        line: Line = {
            "contender": name,
            "who": name,
            "batch": batch,
            "ms": round(1e3 * middle, 3),
            "ms_min": round(1e3 * min(times[name]), 3),
            "ms_max": round(1e3 * max(times[name]), 3),
            "rounds": rounds,
            "pictures_s": round(batch / middle, 3),
            "peak_gib": peaks[name],
            "first_loss": losses[name],
        }
        if "diffusers" in times:
            line["times_diffusers"] = round(statistics.median(times["diffusers"]) / middle, 4)
            if not abs(losses[name] / losses["diffusers"] - 1) <= 1e-2:
                line = {**line, "error": "other work: the first losses differ"}
        yield line


def trained(setup: Setup, name: str, batch: int, steps: int) -> tuple[float, float]:
    """The first loss, and seconds a step after three that warm up."""
    family = setup.family("sd15")
    pair = unets(setup, family, torch.float32)
    network: Any = pair.ours if name == "ours" else pair.theirs
    del pair
    network.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    given = unet_inputs(setup, family, torch.float32, batch, 512)
    target = given.latents.flip(0)

    def step() -> Tensor:
        with torch.autocast(setup.device.type, torch.bfloat16):
            output = network(given.latents, given.time, given.context)
            output = output if isinstance(output, Tensor) else output.sample
        loss = F.mse_loss(output.float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    first = float(step())
    step(), step()
    return first, block(setup, step, steps)


# -- the cases -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is compared under one name. `wanted` names the option that asks for it, if any."""

    name: str
    family: str
    dtype: str
    run: Callable[[Bench], Iterator[Line]]
    wanted: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)


def unet_case(
    name: str,
    dtype: str,
    variants: Sequence[Variant],
    *,
    batch: int = 2,
    family: str = "sd15",
    pixels: int = 512,
    wanted: str = "",
) -> Case:
    def run(bench: Bench) -> Iterator[Line]:
        makers = unet_contenders(bench, family, dtype, batch, pixels, variants)
        return compared(bench.setup, makers, rounds=bench.setup.rounds)

    facts = {"what": "unet", "batch": batch, "pixels": pixels}
    return Case(name, family, dtype, run, wanted, facts)


def decoder_case(dtype: str, pixels: int) -> Case:
    def run(bench: Bench) -> Iterator[Line]:
        makers = decoder_contenders(bench, dtype, pixels, EAGER)
        return compared(bench.setup, makers, rounds=bench.setup.rounds)

    facts = {"what": "vae decode", "batch": 1, "pixels": pixels}
    return Case(f"vae-{pixels}-{dtype}", "sd15", dtype, run, "", facts)


def picture_case(dtype: str, count: int) -> Case:
    def run(bench: Bench) -> Iterator[Line]:
        steps = 4 if bench.setup.small else 20
        rounds = max(2, bench.setup.rounds - (2 if count == 1 else 4))  # they are long
        makers = picture_contenders(bench, dtype, count, steps)
        return compared(bench.setup, makers, rounds=rounds, pictures=count)

    facts = {"what": "picture", "batch": count, "pixels": 512, "steps": 20, "guidance": 7}
    return Case(f"picture-{dtype}-b{count}", "sd15", dtype, run, "", facts)


def training_case(batch: int) -> Case:
    def run(bench: Bench) -> Iterator[Line]:
        bench.clear()
        return training(bench.setup, batch, rounds=3, steps=2 if bench.setup.small else 8)

    facts = {"what": "training step", "pixels": 512}
    return Case("training", "sd15", "bf16", run, "training", facts)


def cases(training_batch: int) -> list[Case]:
    """In the order in which they are run: what costs little first."""
    theirs: Variant = ("diffusers", "")
    ours: Variant = ("ours", "")
    ours_compiled, theirs_compiled = ("ours", "compiled"), ("diffusers", "compiled")
    both = (ours_compiled, theirs_compiled)
    ours_reduced, theirs_reduced = ("ours", "reduce-overhead"), ("diffusers", "reduce-overhead")
    large = {"family": "sdxl", "pixels": 1024}
    return [
        unet_case("sd15-fp16", "fp16", EAGER),
        picture_case("fp16", 1),
        unet_case("sd15-bf16", "bf16", EAGER),
        unet_case("sd15-fp16-b8", "fp16", EAGER, batch=8),
        unet_case("sd15-bf16-b8", "bf16", EAGER, batch=8),
        picture_case("fp16", 4),
        *(decoder_case(dtype, pixels) for pixels in (512, 1024) for dtype in ("fp16", "bf16")),
        picture_case("bf16", 1),
        unet_case(
            "recorded-sd15-fp16",
            "fp16",
            (*EAGER[:2], ("ours", "recorded"), ("diffusers", "recorded")),
        ),
        unet_case("sdxl-fp16", "fp16", EAGER, **large),  # type: ignore[arg-type]
        unet_case("compiled-sd15-fp16-ours", "fp16", (ours, theirs, ours_compiled)),
        unet_case("compiled-sd15-fp16", "fp16", (theirs, *both)),
        unet_case("reduced-sd15-fp16-ours", "fp16", (theirs, *both, ours_reduced)),
        unet_case("reduced-sd15-fp16", "fp16", (theirs, ours_reduced, theirs_reduced)),
        unet_case("compiled-sd15-fp16-b8", "fp16", (theirs, *both), batch=8),
        unet_case("compiled-sd15-bf16", "bf16", (theirs, *both)),
        unet_case("compiled-sdxl-fp16", "fp16", (theirs, *both), wanted="compile_large", **large),  # type: ignore[arg-type]
        training_case(training_batch),
    ]


# -- what is said ----------------------------------------------------------------------------------


def say(line: Mapping[str, object]) -> None:
    print(json.dumps(line), flush=True)


def first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:300]}"


def held(path: Path | None) -> set[str]:
    """Names of the cases in the file; a torn last line is passed over."""
    found: set[str] = set()
    if path is None or not path.exists():
        return found
    for text in path.read_text("utf-8").splitlines():
        try:
            found.add(json.loads(text).get("case", ""))
        except json.JSONDecodeError:
            continue
    return found


def chosen(case: Case, given: argparse.Namespace) -> bool:
    if case.wanted and not getattr(given, case.wanted):
        return False
    names = [name for name in (given.only or "").split(",") if name]
    return not names or any(case.name == n or case.name.startswith(f"{n}-") for n in names)


def lines_of(case: Case, bench: Bench, facts: Mapping[str, object]) -> Iterator[Line]:
    common = {"case": case.name, "family": case.family, "dtype": case.dtype, **case.facts}
    try:
        bench.hold(case.family)
        for line in case.run(bench):
            key = f"{case.name}/{line['contender']}"
            yield {"key": key, **common, **line, **facts}
    except Exception as error:
        yield {"key": f"{case.name}/all", **common, "error": first_line(error), **facts}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="lines are added to this file")
    parser.add_argument("--only", help="cases, or beginnings of their names, with commas between")
    parser.add_argument("--list", action="store_true", help="print the names of cases and stop")
    parser.add_argument("--budget", type=float, default=130, help="seconds; no new case after them")
    parser.add_argument("--small", action="store_true", help="narrow networks: does it run?")
    parser.add_argument("--compile-large", action="store_true", help="compile SDXL, too")
    parser.add_argument("--training", action="store_true", help="time training steps, too")
    parser.add_argument("--training-batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7, help="of each contender")
    parser.add_argument("--seconds", type=float, default=0.12, help="of a round")
    parser.add_argument("--memory", type=float, default=30, help="GB of the GPU's that may be used")
    return parser.parse_args()


def main() -> int:
    began = time.monotonic()
    given = arguments()
    every = cases(given.training_batch)
    if given.list:
        print("\n".join(case.name for case in every))
        return 0
    device = resolve_device(given.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    setup = Setup(device, given.small, given.rounds, given.seconds)
    if not setup.cuda:
        setup = replace(setup, rounds=min(2, setup.rounds), seconds=0.0)
    else:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, given.memory * 1e9 / total), device)
    facts = machine(setup)
    say({"note": f"load of the GPU before: {facts['gpu_busy_before'] or 'unknown'}", **facts})
    bench, done = Bench(setup), held(given.out)
    torch._dynamo.config.recompile_limit = 64  # one function, compiled for many networks
    for case in every:
        if case.name in done or not chosen(case, given):
            continue
        if time.monotonic() - began > given.budget:
            say({"note": f"out of time: {case.name} and what follows are for the next run"})
            break
        start = time.monotonic()
        with nullcontext() if case.name == "training" else torch.no_grad():
            lines = list(lines_of(case, bench, facts))
        for line in lines:
            say(line)
        if given.out is not None:
            with given.out.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))
        now = time.monotonic()
        say({"note": f"{case.name}: {now - start:.1f} s, {now - began:.1f} s in all"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
