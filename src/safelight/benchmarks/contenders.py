"""Who takes part: our engines, and peers by the names that --against takes."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import get_args

from safelight.engines.table import AUTO, EAGER, ENGINES
from safelight.errors import RequestError
from safelight.families import SamplerHint
from safelight.tasks.presets import check_preset, preset_settings
from safelight.tasks.request import Offload

OURS = "safelight"
SCRIPTS = Path(__file__).parent / "peers"
NETWORK = frozenset({"step", "decode", "encode"})
PIPELINE = frozenset({"picture", "load", "start", "memory"})
PICTURES = frozenset({"picture", "start", "memory"})  # works in which parts may come and go
PRESET = ("picture", "start")  # works in which ours may draw with a preset
FULL = "none"  # in place of a preset: the recipe that all libraries are given

# Which of our engines a work is for, where it is not for all: what PyTorch's profiler sees into.
_ENGINES_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"overhead": (EAGER, "compiled"), "roofline": (EAGER,), "train": (EAGER,)}
)


@dataclass(frozen=True)
class Peer:
    """Another library, and how it is used here.

    how: what its script is told. needs: modules that its interpreter must have, by the packages
    that bring them. works: what it can be timed at. exports: whether it first makes files of its
    own of the model. single: whether it reads the weights from one file. precisions: what it can
    be asked for.
    """

    name: str
    words: str
    library: str
    how: str
    script: str
    needs: Mapping[str, str] = field(hash=False)
    works: frozenset[str]
    exports: bool = False
    single: bool = False
    precisions: tuple[str, ...] = ("fp32", "bf16", "fp16")

    @property
    def path(self) -> Path:
        return SCRIPTS / self.script


_DIFFUSERS = {"torch": "torch", "diffusers": "diffusers", "transformers": "transformers"}
_OPENVINO = {"openvino": "openvino", "openvino_genai": "openvino-genai"}
_TO_OPENVINO = {**_DIFFUSERS, **_OPENVINO, "openvino_tokenizers": "openvino-tokenizers"}

PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        peer.name: peer
        for peer in (
            Peer(
                "diffusers",
                "Diffusers, as it is",
                "diffusers",
                "eager",
                "diffusers_peer.pyw",
                _DIFFUSERS,
                NETWORK | PIPELINE | {"text", "train", "overhead"},
            ),
            Peer(
                "diffusers-compiled",
                "Diffusers, its U-Net or autoencoder compiled by inductor with frozen weights",
                "diffusers",
                "compiled",
                "diffusers_peer.pyw",
                _DIFFUSERS,
                NETWORK | {"picture"},
            ),
            Peer(
                "openvino",
                "OpenVINO on a plain export of Diffusers' model; whole pictures by OpenVINO GenAI",
                "openvino",
                "openvino",
                "openvino_peer.pyw",
                _TO_OPENVINO,
                NETWORK | PIPELINE,
                exports=True,
                precisions=("fp32", "bf16"),
            ),
            Peer(
                "openvino-int8",
                "the same, the U-Net of the export quantised to eight bits by NNCF",
                "openvino",
                "openvino-int8",
                "openvino_peer.pyw",
                {**_TO_OPENVINO, "nncf": "nncf"},
                frozenset({"step"}),
                exports=True,
                precisions=("bf16",),
            ),
            Peer(
                "sdcpp",
                "stable-diffusion.cpp by its Python binding",
                "stable-diffusion.cpp",
                "sdcpp",
                "sdcpp_peer.pyw",
                {"stable_diffusion_cpp": "stable-diffusion-cpp-python"},
                PIPELINE,
                single=True,
            ),
        )
    }
)


@dataclass(frozen=True)
class Contender:
    """One who is timed: an engine of ours or a peer, at a precision.

    offload: which parts of ours are in memory when; "auto" says nothing of it. preset: the settings
    that ours draws with in place of the recipe that all others are given; FULL is that recipe.
    """

    how: str
    precision: str
    peer: Peer | None = None
    offload: str = AUTO
    preset: str = FULL

    @property
    def who(self) -> str:
        if self.peer is not None:
            return self.peer.name
        parts = [] if self.offload == AUTO else [self.offload]
        return " ".join((OURS, self.how, *parts, *([self.preset] if self.recipe else [])))

    @property
    def recipe(self) -> Mapping[str, object]:
        """The settings of its preset; none where it draws as all others do."""
        return preset_settings(None if self.preset == FULL else self.preset)

    @property
    def name(self) -> str:
        return f"{self.who} {self.precision}"

    @property
    def library(self) -> str:
        return OURS if self.peer is None else self.peer.library

    @property
    def arithmetic(self) -> str:
        """What rounding is like in its output: a key of `alike.TOLERANCE`."""
        return "int8" if "int8" in self.how or self.how == "fp8" else self.precision

    def command(self, python: str) -> list[str]:
        """The process that answers lines of JSON; `python` runs the scripts of peers."""
        if self.peer is None:
            return [sys.executable, "-m", "safelight.benchmarks.ours"]
        return [python, str(self.peer.path)]


def contenders(
    work: str,
    precision: str,
    engines: Sequence[str],
    peers: Sequence[str],
    offloads: Sequence[str] = (AUTO,),
    presets: Sequence[str] = (FULL,),
) -> list[Contender]:
    """Those that can be timed at a work in a precision, ours first.

    offloads, presets: each engine's in turn, where it draws whole pictures.
    """
    ways = offloads if work in PICTURES else (AUTO,)
    recipes = presets if work in PRESET else (FULL,)
    ours = [
        Contender(engine, precision, offload=way, preset=preset)
        for engine in engines
        if engine in _ENGINES_OF.get(work, engines)
        for way in ways
        for preset in recipes
    ]
    able = [PEERS[name] for name in peers]
    return [
        *ours,
        *(
            Contender(peer.how, precision, peer)
            for peer in able
            if work in peer.works and precision in peer.precisions
        ),
    ]


def absent(
    work: str, precision: str, engines: Sequence[str], peers: Sequence[str]
) -> Iterator[str]:
    """Who was asked for and cannot be timed at a work in a precision, in words."""
    able = contenders(work, precision, engines, peers)
    for engine in engines:
        if not any(one.peer is None and one.how == engine for one in able):
            yield f"engine {engine} is not timed at {work}, for which PyTorch must run the network"
    for name in peers:
        peer = PEERS[name]
        if work not in peer.works:
            yield f"{name} is not timed at {work}"
        elif precision not in peer.precisions:
            yield f"{name} is not timed in {precision}"


def check_engines(names: Sequence[str]) -> None:
    """Raise RequestError for an engine that is not known or cannot run here."""
    for name in names:
        engine = ENGINES.get(name)
        if engine is None:
            raise RequestError(f"there is no engine {name!r}; choose from {', '.join(ENGINES)}.")
        if reason := engine.missing():
            raise RequestError(f"engine {name} cannot run here: {reason}")


def check_offloads(offloads: Sequence[str], engines: Sequence[str], device: str) -> None:
    """Raise RequestError for an offload that is not known, or that an engine cannot do."""
    from safelight.engines.placement import resolve_device
    from safelight.tasks.placing import check_offload

    known = get_args(Offload)
    for offload in offloads:
        if offload not in known:
            raise RequestError(f"there is no offload {offload!r}; choose from {', '.join(known)}.")
        for engine in engines:
            check_offload(engine, offload, resolve_device(device))


def check_presets(
    presets: Sequence[str], works: Sequence[str], steps: int, hint: SamplerHint
) -> None:
    """Raise RequestError for a preset that is not known, saves nothing here or is for no work.

    hint: of the model that draws.
    """
    if not presets:
        raise RequestError("no preset was asked for; give a name, or none.")
    for name in presets:
        if name == FULL:
            continue
        taken = preset_settings(name)["steps"]
        if not set(PRESET) & set(works):
            raise RequestError(
                f"preset {name} does nothing for {', '.join(works)}; it is for "
                f"{' and '.join(PRESET)}."
            )
        check_preset(name, hint)
        assert isinstance(taken, int)
        if steps <= taken:
            raise RequestError(
                f"preset {name} draws in {taken} steps, and all others would in {steps}; "
                f"give --steps above {taken}."
            )


def check_peers(names: Sequence[str], python: str) -> None:
    """Raise RequestError for a peer that is not known, or that this interpreter does not have."""
    for name in names:
        if name not in PEERS:
            raise RequestError(f"there is no peer {name!r}; choose from {', '.join(PEERS)}.")
    wanted = {module: package for name in names for module, package in PEERS[name].needs.items()}
    if not wanted:
        return
    lacking = lacking_modules(tuple(wanted), python)
    for name in names:
        missing = [package for module, package in PEERS[name].needs.items() if module in lacking]
        if missing:
            raise RequestError(
                f"{name} is not installed where it would run: {', '.join(missing)} is missing; "
                f"pip install {' '.join(missing)} (the extra safelight[bench] has those that need "
                "no compiler), or name an interpreter that has it with --peer-python"
            )


def lacking_modules(modules: Sequence[str], python: str) -> set[str]:
    """Those that an interpreter cannot find; nothing is imported.

    Raises RequestError if there is no such interpreter.
    """
    script = (
        "import importlib.util as u, json, sys; "
        "print(json.dumps([m for m in sys.argv[1:] if u.find_spec(m) is None]))"
    )
    try:
        done = subprocess.run(
            [python, "-c", script, *modules], capture_output=True, text=True, check=True
        )
        return set(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        raise RequestError(
            f"peer_python {python!r} does not run as a Python interpreter; give the path of one"
        ) from None
