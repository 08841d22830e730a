"""The engine `compiled`: the U-Net as one library, made for the asked size.

Fusing what lies between products saves memory traffic and the time between operations; weights
are packed for oneDNN where that pays. A graph is made for one size of batch and picture, kept on
disk and loaded again by every later process. Weights are given to it, so adapters that are folded
into weights cost nothing; such as act in slots, or at other strengths there, are compiled anew.
"""

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from safelight.engines.calls import Call, taken_apart
from safelight.engines.compiled_on_device import JustInTimeUNet
from safelight.engines.doors import Doors
from safelight.engines.onednn_graph import Packing, packed
from safelight.engines.packages import (
    NO_COMPILER,
    Loaded,
    Package,
    compiler,
    found_package,
    made_package,
    options,
)
from safelight.engines.private_folder import private_folder
from safelight.engines.seen_weights import Weights
from safelight.engines.signature import signature
from safelight.engines.work import Work, example
from safelight.errors import RequestError
from safelight.models.runner import Extra, Runner

if TYPE_CHECKING:
    from safelight.model import Model

log = logging.getLogger(__name__)

NAME = "compiled"
FOLDER = "compiled"
EXTRAS: frozenset[Extra] = frozenset(
    {
        "image prompts",
        "perturbed attention",
        "FreeU",
        "T2I adapters inside the encoder",
        "ControlNets",
    }
)
KEPT = 4  # graphs in memory, each with packed weights of its own
SECONDS_A_WEIGHT = 0.15  # compiling, on two cores: 40 s for 285 tensors of weights, 110 for 686
SECONDS_ON_DEVICE = 60.0
PACKED_BELOW = 2**28  # bytes of weights up to which they are kept packed, a second time


@dataclass
class _Graph:
    """A loaded graph, the weights that it was given, and the modules in slots that it holds."""

    loaded: Loaded
    wanted: dict[str, Packing | None]
    weights: Weights
    inhabitants: tuple[nn.Module, ...] = ()  # kept, so that no other module gets their id

    def refresh(self) -> None:
        """Give it the weights that are not those it has: at first all, later those changed."""
        given = {}
        try:
            for name, weight in self.weights.fresh().items():
                packing = self.wanted[name]
                given[f"target.{name}"] = weight if packing is None else packed(weight, packing)
            if given:
                self.loaded.give(given)
        except BaseException:
            self.weights.forget()  # it may have some of them and not the others
            raise


class Graphs:
    """A method of a network, compiled for each size that it is asked at."""

    def __init__(self, network: nn.Module, method: str, what: str) -> None:
        self._network, self._method, self._what = network, method, what
        self._doors = Doors(network)
        self._kept: OrderedDict[tuple[object, ...], _Graph] = OrderedDict()
        self._turn = threading.Lock()

    def __call__(self, *args: object, **told: object) -> Tensor:
        call = taken_apart(*args, **told)
        with self._turn, torch.no_grad():
            inhabitants = self._doors.inhabitants()
            key = (call.key, tuple(map(id, inhabitants)), self._doors.wraps())
            graph = self._kept.get(key)
            if graph is None:
                graph = self._graph(call, inhabitants)
                self._kept[key] = graph
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            graph.refresh()
            return graph.loaded.run(call.tensors)

    def _graph(self, call: Call, inhabitants: tuple[nn.Module, ...]) -> _Graph:
        package = self._package(call)
        wanted = dict(package.wanted)
        if sum(p.numel() * p.element_size() for p in self._network.parameters()) > PACKED_BELOW:
            wanted = dict.fromkeys(wanted)
        return _Graph(Loaded(package), wanted, Weights(self._network, wanted), inhabitants)

    def _package(self, call: Call) -> Package:
        try:
            key = _key(self._network, self._method, call)
        except TypeError as error:
            raise RequestError(
                f"engine {NAME} cannot compile this model: {error}; draw with --engine eager"
            ) from None
        folder = private_folder(FOLDER)
        found = found_package(folder, key)
        if found is not None:
            return found
        self._tell(call, folder)
        began = time.perf_counter()
        made = made_package(folder, key, self._network, self._method, call)
        log.info("compiled the %s in %.0f s", self._what, time.perf_counter() - began)
        return made

    def _tell(self, call: Call, folder: Path) -> None:
        batch, *_, height, width = call.tensors[0].shape
        log.warning(
            "compiling the %s for latents of %dx%d, %d at a time: a minute or two, once for each "
            "size; kept in %s",
            self._what,
            width,
            height,
            batch,
            folder,
        )


class CompiledUNet:
    """A `Runner`: a U-Net's plain call, and those extras that are tensors or settings."""

    name = NAME
    extras = EXTRAS
    frozen = False

    def __init__(self, unet: nn.Module) -> None:
        self._graphs = Graphs(unet, "forward", "U-Net")

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        **told: object,
    ) -> Tensor:
        return self._graphs(x, time, context, vector, **told)


def compiled(model: "Model") -> "Model":
    """The model with its U-Net compiled when it is first asked at a size.

    The autoencoder works as it is: nearly all of its time goes into convolutions, which are the
    same either way (measured: compiled 0.97 to 1.4 times as long).
    """
    network = model.network
    runner: Runner = (
        CompiledUNet(network.unet)
        if model.device.type == "cpu"
        else JustInTimeUNet(network.unet, NAME, EXTRAS)
    )
    return replace(model, network=replace(network, runner=runner), engine=NAME)


def making(model: "Model", work: Work) -> float:
    """About how many seconds compiling the U-Net for such work takes; 0 if it was done before."""
    unet, seen = model.network.unet, _Seeing()
    if model.device.type != "cpu":
        return SECONDS_ON_DEVICE  # its compiler does not tell what it has kept
    network = replace(model.network, runner=seen)
    network(*example(model, work))
    assert seen.call is not None
    key = _key(unet, "forward", seen.call)
    if found_package(private_folder(FOLDER), key) is not None:
        return 0.0
    return SECONDS_A_WEIGHT * sum(1 for _ in unet.parameters())


class _Seeing:
    """Stands for a runner to see the call that it would get."""

    name = NAME
    extras = EXTRAS
    frozen = False

    def __init__(self) -> None:
        self.call: Call | None = None

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        **told: object,
    ) -> Tensor:
        self.call = taken_apart(x, time, context, vector, **told)
        return x


def missing() -> str | None:
    """Why nothing can be compiled here; None if it can, or if something was compiled before."""
    if not hasattr(getattr(torch._C, "_aoti", None), "AOTIModelContainerRunnerCpu"):
        return "this build of PyTorch has no AOTInductor; install the usual one"
    if compiler() is None and not any(private_folder(FOLDER).glob("*.so")):
        return NO_COMPILER
    return None


def _key(network: nn.Module, method: str, call: Call) -> str:
    """By what a library is kept: all that decides what it computes, but for weights."""
    return signature(network, method, call.key, sorted(options().items()))
