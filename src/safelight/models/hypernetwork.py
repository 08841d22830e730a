"""Hypernetworks: small MLPs that change what keys and values are made of, in every attention.

NovelAI's, in the form that A1111 gave them: for each width of what an attention looks at (the text,
or its own tokens) there are two MLPs, one for keys and one for values, whose output is added to
their input. They enter by the door of `Nudge`.

Shapes: B batch, M tokens that are looked at, D their width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from safelight.models.attention import Nudge
from safelight.models.layers import LayerNorm, Linear

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "leakyrelu": nn.LeakyReLU,
    "elu": nn.ELU,
    "swish": nn.Hardswish,  # so A1111
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "hardsigmoid": nn.Hardsigmoid,
    "hardshrink": nn.Hardshrink,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "logsigmoid": nn.LogSigmoid,
    "mish": nn.Mish,
    "relu6": nn.ReLU6,
    "rrelu": partial(nn.LeakyReLU, (1 / 8 + 1 / 3) / 2),  # what it is when it does not learn
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "softshrink": nn.Softshrink,
    "softsign": nn.Softsign,
    "tanhshrink": nn.Tanhshrink,
}
KEY, VALUE = "to_k", "to_v"


@dataclass(frozen=True)
class HypernetworkConfig:
    """The shape of a hypernetwork.

    widths: D of what it acts on. layers: widths of the layers of each MLP in shares of D, the first
    and the last 1. activation: a name of ACTIVATIONS, after each layer but the last, and after that
    too if `activate_output`. norm: a layer norm after each layer's activation.
    """

    widths: tuple[int, ...]
    layers: tuple[float, ...] = (1.0, 2.0, 1.0)
    activation: str = "linear"
    activate_output: bool = True
    norm: bool = False


class Hypernetwork(nn.Module):
    """The MLPs of all widths. Names of its parameters: "320.0.linears.1.weight", 0 of keys."""

    def __init__(self, config: HypernetworkConfig) -> None:
        super().__init__()
        self.config = config
        for width in config.widths:
            self.add_module(str(width), nn.ModuleList([Mlp(config, width), Mlp(config, width)]))

    def of(self, layer: str, width: int) -> "Mlp | None":
        """The MLP for the input of a projection, such as "....attn2.to_k"; None if it has none."""
        projection = layer.rpartition(".")[2]
        if projection not in (KEY, VALUE) or width not in self.config.widths:
            return None
        mlp = self.get_submodule(f"{width}.{(KEY, VALUE).index(projection)}")
        assert isinstance(mlp, Mlp)
        return mlp


class Mlp(nn.Module):
    """What is added to its input: (B, M, D) -> the same."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: HypernetworkConfig, width: int) -> None:
        super().__init__()
        pairs = list(pairwise(round(width * share) for share in config.layers))
        self.linears = nn.ModuleList(Linear(before, after) for before, after in pairs)
        self.norms = nn.ModuleList(LayerNorm(after) for _, after in pairs if config.norm)
        self.activation = ACTIVATIONS[config.activation]()
        self.activate_output = config.activate_output

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.linears) - 1
        for number, linear in enumerate(self.linears):
            x = linear(x)
            if number < last or self.activate_output:
                x = self.activation(x)
            if self.norms:
                x = self.norms[number](x)
        return x


@dataclass
class Dose:
    """How much a hypernetwork acts; whoever owns the model may change it between steps."""

    network: Hypernetwork
    strength: float = 1.0


def nudge_of(doses: Sequence[Dose]) -> Nudge:
    """The nudge of several hypernetworks, each acting on what those before it made."""

    def nudge(layer: str, x: Tensor) -> Tensor | None:
        moved = x
        for dose in doses:
            mlp = dose.network.of(layer, x.shape[-1]) if dose.strength else None
            if mlp is not None:
                moved = moved + dose.strength * mlp(moved).to(x.dtype)
        return None if moved is x else moved - x

    return Nudge(nudge)
