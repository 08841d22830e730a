"""A model computed by OpenVINO on the CPU: its U-Net and its autoencoder.

Shapes: B batch, C latent channels, h w latent height and width, H W pixels, L tokens, D width of
the text tokens, V width of the vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from safelight.engines.openvino_eight import EightBits, Scales
from safelight.engines.openvino_graph import graph_of
from safelight.engines.openvino_runtime import (
    Compiled,
    Precision,
    compiled,
    missing,
    precision_of,
)
from safelight.engines.openvino_shelf import ADDED, Shelf, Signature
from safelight.errors import RequestError
from safelight.model import Model
from safelight.models.autoencoder import Codec
from safelight.models.runner import Extra
from safelight.models.unet import Residuals, UNet

NAME = "openvino"
EXTRAS: frozenset[Extra] = frozenset({"ControlNets", "T2I adapters inside the encoder"})


def applied(model: Model) -> Model:
    """The model, computed by OpenVINO in the type of its weights: float32, or bfloat16.

    Weights of float16, or of bfloat16 where the processor has none, are computed with in float32.
    Raises RequestError if OpenVINO or the processor cannot, or the model lies on another device.
    """
    check(model, NAME)
    return replace(
        model,
        network=replace(model.network, runner=UNetRunner(model.network.unet)),
        codec=decoded_by(model.codec, NAME),
        engine=NAME,
    )


def check(model: Model, engine: str) -> None:
    """Raise RequestError if OpenVINO is missing here, or the model is not on the CPU."""
    if reason := missing():
        raise RequestError(f"engine {engine} cannot run here: {reason}")
    if model.device.type != "cpu":
        raise RequestError(
            f"engine {engine} computes on the CPU, and the model is on {model.device}; "
            "give --device cpu, or draw with --engine eager"
        )


def decoded_by(codec: Codec, engine: str) -> Codec:
    """The codec with an OpenVINO runner inside."""
    return replace(codec, runner=CodecRunner(cast("nn.Module", codec.autoencoder), name=engine))


@dataclass(frozen=True, eq=False)
class UNetRunner:
    """A U-Net computed by OpenVINO (`models.runner.Runner`).

    The graph is made at the first call of a size, of the weights that the U-Net has then, with all
    that adapters have folded into them or put into slots; and anew when they have changed. A call
    that needs a gradient is refused.
    """

    unet: UNet
    name: str = NAME
    scales: Scales | None = None  # of the layers that multiply in eight bits
    extras: frozenset[Extra] = EXTRAS
    frozen: bool = True

    @property
    def precision(self) -> Precision:
        """That of all but eight bits: of the weights, or bfloat16 beside eight bits."""
        return precision_of(self.unet.dtype if self.scales is None else torch.bfloat16)

    @cached_property
    def _shelf(self) -> Shelf:
        return Shelf(self.unet, self._made)

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        **told: object,
    ) -> Tensor:
        """x (B, C, h, w), time (B,), context (B, L, D), vector (B, V) -> (B, C_out, h, w)."""
        check_gradient(self.name, x, context)
        return self._shelf(named(x, time, context, vector, told))

    def _made(self, signature: Signature) -> Compiled:
        examples = {one.name: torch.zeros(one.shape, dtype=one.dtype) for one in signature}
        products = None if self.scales is None else EightBits(self.scales)
        graph = graph_of(Flat(self.unet, tuple(examples)), examples, products)
        return compiled(graph, self.precision)


def check_gradient(engine: str, *given: Tensor) -> None:
    """Raise RequestError if a gradient through a network is asked for."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        raise RequestError(
            f"engine {engine} gives no gradients; leave out what climbs through the network, or "
            "draw with --engine eager"
        )


def named(
    x: Tensor,
    time: Tensor,
    context: Tensor,
    vector: Tensor | None,
    told: Mapping[str, object],
) -> dict[str, Tensor]:
    """The tensors of a call of a U-Net by name, in one order."""
    given = {
        "x": x,
        "time": time.expand(x.shape[0]),
        "context": context,
        "vector": vector,
        "level": told.get("level"),
        "guidance_scale": told.get("guidance_scale"),
    }
    residuals = told.get("residuals")
    if isinstance(residuals, Residuals):
        for i, skip in enumerate(residuals.skips):
            given[f"{ADDED}skip {i}"] = skip
        given[f"{ADDED}mid"] = residuals.mid
        for i, inner in enumerate(residuals.inner):
            given[f"{ADDED}inner {i}"] = inner
    return {name: tensor for name, tensor in given.items() if isinstance(tensor, Tensor)}


class Flat(nn.Module):
    """A U-Net that takes the tensors of `named`, one after the other."""

    def __init__(self, network: UNet, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, *given: Tensor) -> Tensor:
        told = dict(zip(self.names, given, strict=True))

        def added(kind: str) -> tuple[Tensor, ...]:
            return tuple(t for name, t in told.items() if name.startswith(f"{ADDED}{kind}"))

        return self.network(
            told["x"],
            told["time"],
            told["context"],
            told.get("vector"),
            level=told.get("level"),
            guidance_scale=told.get("guidance_scale"),
            residuals=Residuals(added("skip"), told.get(f"{ADDED}mid"), added("inner")),
        )


@dataclass(frozen=True, eq=False)
class CodecRunner:
    """An autoencoder computed by OpenVINO, a picture at a time (`models.runner.CodecRunner`)."""

    coder: nn.Module
    name: str = NAME

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents (B, C, h, w) -> pictures (B, 3, H, W)."""
        return self._one_by_one(self._decoding, latents)

    def moments(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> mean and log variance (B, 2 C, h, w)."""
        return self._one_by_one(self._encoding, images)

    def _one_by_one(self, shelf: Shelf, x: Tensor) -> Tensor:
        check_gradient(self.name, x)
        return torch.cat([shelf({"x": one}) for one in x.split(1)])

    @cached_property
    def _decoding(self) -> Shelf:
        return Shelf(self.coder, lambda signature: self._made("decode", signature))

    @cached_property
    def _encoding(self) -> Shelf:
        return Shelf(self.coder, lambda signature: self._made("moments", signature))

    def _made(self, way: str, signature: Signature) -> Compiled:
        examples = {one.name: torch.zeros(one.shape, dtype=one.dtype) for one in signature}
        dtype = next(self.coder.parameters()).dtype
        return compiled(graph_of(Way(self.coder, way), examples), precision_of(dtype))


class Way(nn.Module):
    """One of the two ways through an autoencoder, as a network."""

    def __init__(self, coder: nn.Module, way: str) -> None:
        super().__init__()
        self.coder = coder
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = getattr(self.coder, self.way)(x)
        return made
