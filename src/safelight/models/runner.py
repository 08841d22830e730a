"""The door of engines: what is asked in place of a network's eager modules.

A runner computes what a U-Net or an autoencoder computes, by other means: a compiler, another
runtime, numbers of eight bits. Whoever uses the network does not see it.

Shapes: B batch, C latent channels, h w latent height and width, H W pixels, L tokens, D width of
the text tokens, V width of the vector.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

from torch import Tensor

from safelight.errors import RequestError

Extra = Literal[
    "image prompts",
    "perturbed attention",
    "self-attention guidance",
    "FreeU",
    "word maps",
    "reference-only control",
    "hypernetworks and LLLite",
    "T2I adapters inside the encoder",
    "ControlNets",
    "token merging",
    "deep features kept over steps",
]


class Runner(Protocol):
    """Computes what `UNet.forward` does, and is called with its arguments.

    name: of the engine. extras: what it can do besides the plain call; it is never asked for more.
    frozen: whether it works with weights of its own making, so that a change of the U-Net's
        weights costs it a new preparation; adapters that move between steps are then refused.
        It notices itself when weights have changed since (adapters on or off).
    """

    @property
    def name(self) -> str: ...

    @property
    def extras(self) -> frozenset[Extra]: ...

    @property
    def frozen(self) -> bool: ...

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        **told: object,
    ) -> Tensor:
        """x (B, C, h, w), time (B,), context (B, L, D), vector (B, V) -> (B, C_out, h, w)."""
        ...


class CodecRunner(Protocol):
    """Computes what an autoencoder's `decode` and `moments` do, for whole pictures."""

    @property
    def name(self) -> str: ...

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents (B, C, h, w) -> pictures (B, 3, H, W)."""
        ...

    def moments(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> mean and log variance (B, 2 C, h, w)."""
        ...


def extras_asked(told: Mapping[str, object]) -> Iterator[Extra]:
    """What a call of a U-Net with these arguments asks for besides the plain call."""
    if told.get("images"):
        yield "image prompts"
    if told.get("identity_attention"):
        yield "perturbed attention"
    if told.get("freeu") is not None:
        yield "FreeU"
    if told.get("observer") is not None:
        yield "word maps"
    if told.get("references"):
        yield "reference-only control"
    if told.get("merging") is not None:
        yield "token merging"
    residuals = told.get("residuals")
    if residuals is not None:
        if getattr(residuals, "skips", ()) or getattr(residuals, "mid", None) is not None:
            yield "ControlNets"
        if getattr(residuals, "nudges", ()):
            yield "hypernetworks and LLLite"
        if getattr(residuals, "inner", ()):
            yield "T2I adapters inside the encoder"


def check_extras(engine: str, extras: frozenset[Extra], asked: Sequence[Extra]) -> None:
    """Raise RequestError if an engine is asked for something that it cannot do."""
    beyond = [extra for extra in asked if extra not in extras]
    if beyond:
        raise RequestError(
            f"engine {engine} cannot do {' or '.join(beyond)}; leave that out, or draw with "
            "--engine eager"
        )
