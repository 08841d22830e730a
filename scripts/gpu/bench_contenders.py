"""Who takes part: a call of a network, ours or Diffusers', as it is, compiled or recorded."""

import copy
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from bench_twins import Pair, Setup, autoencoders, noise, unet_inputs, unets
from torch import Tensor, nn

from safelight.engines.fp8 import missing, to_fp8
from safelight.engines.narrow_layers import nbytes
from safelight.engines.recorded import RecordedUNet
from safelight.errors import RequestError
from safelight.models.unet import UNet


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
        return "recorded" in self.name or self.name.endswith("reduce-overhead")

    @property
    def eight_bits(self) -> bool:
        """Whether it rounds to so few, and may be as far from the others as that allows."""
        return self.name.endswith("fp8")

    @property
    def weights(self) -> int:
        """Bytes."""
        return sum(map(nbytes, self.modules))


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

    def in_fp8(self, module: nn.Module) -> nn.Module:
        """A copy whose large weights are in e4m3. Raises RequestError for a GPU without it."""
        if self.setup.cuda and (reason := missing()):
            raise RequestError(f"engine fp8 cannot run here: {reason}")

        def make() -> nn.Module:
            made = copy.deepcopy(module)
            to_fp8(made)
            return made

        found: nn.Module = self.kept(("fp8", id(module)), make)
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
    """One of `module`: as it is, in channels_last or fp8, as a recorded graph, or compiled."""
    setup = bench.setup
    name = who if not how else f"{who}, {how}"
    if "channels_last" in how:
        module = bench.last(module)
    if "fp8" in how:
        module = bench.in_fp8(module)
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
    # the engine looks where weights lie, which those of eight bits do not tell
    if how == "recorded" and setup.cuda and isinstance(module, UNet):
        engine = bench.kept(("recorded", *key), lambda: RecordedUNet(module))
        return Contender(name, ask(who, engine), (module,))
    if "recorded" in how:
        call = bench.kept(("recorded", *key), lambda: recorded(setup, ask(who, module)))
        return Contender(name, call, (module,))
    return Contender(name, ask(who, module), (module,))


def recorded(setup: Setup, call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """An eager call as one CUDA graph, without a compiler; our U-Net has an engine for that."""
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
