"""PyTorch's operators in OpenVINO's, one function for each.

A function is given the graph under construction, the traced node and its arguments, and gives what
the node becomes: an output of OpenVINO's graph, or several. Shapes are those of the trace: numbers
all of them. A tensor among the arguments is known when the graph is built: a weight.

Shapes: B batch, C channels, h w height and width, N tokens, d width of a head.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.nn import functional as F

Output = Any
"""openvino.Output, which is not imported before the engine is asked for."""


class Untranslated(Exception):
    """An operator, or a use of one, that has no translation here; the message names it."""


class Builder(Protocol):
    """What a translation asks of the graph under construction."""

    ops: Any  # openvino.opset15

    def known(self, value: Tensor | float) -> Output:
        """What is known now as a constant of the graph."""
        ...

    def value(self, made: Output | Tensor | float) -> Output:
        """An output as it is, everything else as a constant."""
        ...

    def integers(self, *values: int) -> Output:
        """A list of numbers: a shape, an order of axes."""
        ...

    def told(self, node: fx.Node, x: Output, weight: Tensor) -> tuple[Output, Output] | None:
        """Input and weight of a layer if its product shall take them in another way, as in eight
        bits; None for as they are."""
        ...

    def attended(self, node: fx.Node, query: Output, key: Output, value: Output) -> Output | None:
        """Plain attention if it shall be computed in another way; None for as it is."""
        ...

    def also(self, output: Output) -> None:
        """Make something a further result of the graph."""
        ...


Translation = Callable[..., Any]
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # rows and columns of a map twice the size


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a traced node."""
    return tuple(int(length) for length in node.meta["val"].shape)


def channels_of(x: Output, weight: Tensor) -> int:
    """The axis of the input's channels: the last of tokens, the second of maps."""
    return 1 if weight.ndim == 4 else len(x.get_shape()) - 1


def linear(
    build: Builder, node: fx.Node, x: Output, weight: Tensor, bias: Tensor | None = None
) -> Output:
    x, factor = build.told(node, x, weight) or (x, build.known(weight))
    y = build.ops.matmul(x, factor, False, True).output(0)
    return y if bias is None else build.ops.add(y, build.known(bias)).output(0)


def chunked_linear(
    build: Builder, node: fx.Node, x: Output, weight: Tensor, bias: Tensor | None, parts: int
) -> list[Output]:
    """The chunks of a projection, each by a product of its own: nothing need be cut up."""
    weights = weight.chunk(parts)
    biases = [None] * parts if bias is None else bias.chunk(parts)
    return [linear(build, node, x, w, b) for w, b in zip(weights, biases, strict=True)]


def conv2d(
    build: Builder,
    node: fx.Node,
    x: Output,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Output:
    if groups != 1:
        raise Untranslated("a convolution in groups")
    ends = _pair(padding)
    x, kernel = build.told(node, x, weight) or (x, build.known(weight))
    made = build.ops.convolution(x, kernel, _pair(stride), ends, ends, _pair(dilation))
    return _biased(build, made.output(0), bias)


def upsampled_conv2d(
    build: Builder, node: fx.Node, x: Output, weight: Tensor, bias: Tensor | None
) -> Output:
    """Nearest neighbour to twice the size and a 3 x 3 convolution, as one without the large map.

    Each place of the large map lies at one of four corners of a place of the small one, and sees
    2 x 2 of those: the sums of the taps that fall on the same one. All four together are a
    transposed convolution of stride 2. Exact but for rounding, with 4/9 of the products. The
    runtime has none in eight bits; then they are four convolutions, whose maps are interleaved.
    """
    kernel = phases(weight)
    by_corner = []
    for part in corners(kernel):
        if (pair := build.told(node, x, part)) is None:
            made = build.ops.convolution_backprop_data(
                x, build.known(kernel), [2, 2], None, [1, 1], [1, 1], [1, 1]
            )
            return _biased(build, made.output(0), bias)
        by_corner.append(pair)
    maps = [
        build.ops.convolution(x, part, [1, 1], [1 - row, 1 - column], [row, column], [1, 1])
        for (row, column), (x, part) in zip(CORNERS, by_corner, strict=True)
    ]
    made = build.ops.depth_to_space(build.ops.concat(maps, 1), "blocks_first", 2)
    return _biased(build, made.output(0), bias)


def phases(weight: Tensor) -> Tensor:
    """A kernel (O, I, 3, 3) after a doubling, as one (I, O, 4, 4) of a transposed convolution."""
    # Place 2j of the large map takes entry 1 from j and 3 from j - 1; 2j + 1 takes 2 from j and
    # 0 from j + 1. So an entry is the sum of these taps:
    taps = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    both = torch.einsum("ar,bc->abrc", taps, taps).reshape(16, 9)
    turned = weight.transpose(0, 1)
    made = turned.reshape(-1, 9).float() @ both.t()
    return made.to(weight.dtype).view(*turned.shape[:2], 4, 4)


def corners(kernel: Tensor) -> Iterator[Tensor]:
    """What each of the four places of the large map sees of the small one: (I, O, 4, 4) of a
    transposed convolution -> (O, I, 2, 2) for each of `CORNERS`, one after the other."""
    flipped = kernel.transpose(0, 1)
    for row, column in CORNERS:
        # backwards from the last entry of that parity
        yield flipped[:, :, 1 - row :: 2, 1 - column :: 2].flip(2, 3).contiguous()


def _biased(build: Builder, y: Output, bias: Tensor | None) -> Output:
    if bias is None:
        return y
    return build.ops.add(y, build.known(bias[None, :, None, None])).output(0)


def _pair(value: int | Sequence[int]) -> list[int]:
    if isinstance(value, int):
        return [value, value]
    return [int(value[0]), int(value[-1])]


def group_norm(
    build: Builder,
    node: fx.Node,
    x: Output,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Output:
    made = build.ops.group_normalization(x, build.known(weight), build.known(bias), groups, eps)
    return made.output(0)


def layer_norm(
    build: Builder,
    node: fx.Node,
    x: Output,
    shape: Sequence[int],
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Output:
    axes = build.integers(*range(-len(shape), 0))
    y = build.ops.mvn(x, axes, True, eps, "inside_sqrt")
    y = build.ops.multiply(y, build.known(weight))
    return build.ops.add(y, build.known(bias)).output(0)


def scaled_dot_product_attention(
    build: Builder,
    node: fx.Node,
    query: Output,
    key: Output,
    value: Output,
    mask: Output | Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Output:
    if dropout or enable_gqa:
        raise Untranslated("attention with dropout or shared heads")
    plain = mask is None and scale is None and not causal
    if plain and (made := build.attended(node, query, key, value)) is not None:
        return made
    given = [query, key, value]
    if mask is not None or scale is not None:
        given.append(build.known(torch.zeros(())) if mask is None else build.value(mask))
    if scale is not None:
        given.append(build.known(scale))
    return build.ops.scaled_dot_product_attention(*given, causal=causal).output(0)


def reshaped(build: Builder, node: fx.Node, x: Output, *shape: object, **named: object) -> Output:
    """Whatever only writes the same numbers in another shape, the trace's."""
    return build.ops.reshape(x, build.integers(*shape_of(node)), False).output(0)


def expand(build: Builder, node: fx.Node, x: Output, *shape: object, **named: object) -> Output:
    return build.ops.broadcast(x, build.integers(*shape_of(node))).output(0)


def transpose(build: Builder, node: fx.Node, x: Output, first: int, second: int) -> Output:
    order = list(range(len(shape_of(node))))
    order[first], order[second] = order[second], order[first]
    return build.ops.transpose(x, build.integers(*order)).output(0)


def permute(build: Builder, node: fx.Node, x: Output, order: Sequence[int]) -> Output:
    return build.ops.transpose(x, build.integers(*order)).output(0)


def cat(build: Builder, node: fx.Node, given: Sequence[Output | Tensor], dim: int = 0) -> Output:
    return build.ops.concat([build.value(one) for one in given], dim).output(0)


def chunk(build: Builder, node: fx.Node, x: Output, parts: int, dim: int = 0) -> list[Output]:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if shape_of(source)[dim] % parts:
        raise Untranslated("chunks of different sizes")
    made: list[Output] = build.ops.split(x, build.known(torch.tensor(dim)), parts).outputs()
    return made


def embedding(build: Builder, node: fx.Node, table: Tensor, index: Output, *rest: object) -> Output:
    return build.ops.gather(build.known(table), index, build.known(torch.tensor(0))).output(0)


def upsample_nearest2d(
    build: Builder, node: fx.Node, x: Output, size: object, factors: object = None
) -> Output:
    """Nearest neighbour to any size: the rows and columns that PyTorch takes."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    for axis in (2, 3):
        before, after = shape_of(source)[axis], shape_of(node)[axis]
        places = torch.arange(before, dtype=torch.float32)[None, None]
        index = F.interpolate(places, size=after, mode="nearest").flatten().long()
        x = build.ops.gather(x, build.known(index), build.known(torch.tensor(axis))).output(0)
    return x


def pad(
    build: Builder,
    node: fx.Node,
    x: Output,
    ends: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Output:
    dims = len(shape_of(node))
    begin, end = [0] * dims, [0] * dims
    for axis, (before, after) in enumerate(zip(ends[::2], ends[1::2], strict=True), start=1):
        begin[dims - axis], end[dims - axis] = before, after
    if mode == "circular":
        return _circular(build, node, x, begin, end)
    if mode != "constant" or min(ends) < 0:
        raise Untranslated(f"padding in the mode {mode}")
    made = build.ops.pad(
        x, build.integers(*begin), build.integers(*end), "constant", build.known(value or 0.0)
    )
    return made.output(0)


def _circular(
    build: Builder, node: fx.Node, x: Output, begin: Sequence[int], end: Sequence[int]
) -> Output:
    """What lies at the other end of each axis, before and after it."""
    for axis, (before, after) in enumerate(zip(begin, end, strict=True)):
        if before or after:
            length = shape_of(node)[axis] - before - after
            places = torch.arange(-before, length + after) % length
            x = build.ops.gather(x, build.known(places), build.known(torch.tensor(axis))).output(0)
    return x


def gelu(build: Builder, node: fx.Node, x: Output, *, approximate: str = "none") -> Output:
    return build.ops.gelu(x, "erf" if approximate == "none" else "tanh").output(0)


def add(build: Builder, node: fx.Node, x: Any, y: Any, *, alpha: float = 1) -> Output:
    return build.ops.add(build.value(x), build.value(_times(y, alpha))).output(0)


def sub(build: Builder, node: fx.Node, x: Any, y: Any, *, alpha: float = 1) -> Output:
    return build.ops.subtract(build.value(x), build.value(_times(y, alpha))).output(0)


def _times(y: Any, alpha: float) -> Any:
    if alpha == 1:
        return y
    if isinstance(y, Tensor | float | int):
        return y * alpha
    raise Untranslated("a sum with a factor")


def mean(
    build: Builder, node: fx.Node, x: Output, dims: Sequence[int], keepdim: bool = False
) -> Output:
    return build.ops.reduce_mean(x, build.integers(*dims), keepdim).output(0)


def clamp(
    build: Builder,
    node: fx.Node,
    x: Output,
    low: float | None = None,
    high: float | None = None,
) -> Output:
    infinity = float("inf")
    made = build.ops.clamp(
        x, -infinity if low is None else float(low), infinity if high is None else float(high)
    )
    return made.output(0)


def unchanged(build: Builder, node: fx.Node, x: Output, *rest: object, **named: object) -> Output:
    """Casts between floating-point types: the precision of the whole graph decides."""
    if not node.meta["val"].is_floating_point():
        raise Untranslated("a cast to whole numbers")
    return x


def _of_one(name: str) -> Translation:
    def translate(build: Builder, node: fx.Node, x: Output) -> Output:
        return getattr(build.ops, name)(x).output(0)

    return translate


def _of_two(name: str) -> Translation:
    def translate(build: Builder, node: fx.Node, x: Any, y: Any) -> Output:
        return getattr(build.ops, name)(build.value(x), build.value(y)).output(0)

    return translate


TRANSLATIONS: Mapping[str, Translation] = MappingProxyType(
    {
        "linear": linear,
        "conv2d": conv2d,
        "group_norm": group_norm,
        "layer_norm": layer_norm,
        "scaled_dot_product_attention": scaled_dot_product_attention,
        **dict.fromkeys(
            ("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze"), reshaped
        ),
        "expand": expand,
        "transpose": transpose,
        "permute": permute,
        "cat": cat,
        "chunk": chunk,
        "embedding": embedding,
        "upsample_nearest2d": upsample_nearest2d,
        "pad": pad,
        "gelu": gelu,
        "add": add,
        "sub": sub,
        "mean": mean,
        "clamp": clamp,
        **dict.fromkeys(("to", "contiguous", "clone", "detach", "dropout"), unchanged),
        "silu": _of_one("swish"),
        "relu": _of_one("relu"),
        "tanh": _of_one("tanh"),
        "sigmoid": _of_one("sigmoid"),
        "mul": _of_two("multiply"),
        "div": _of_two("divide"),
    }
)
"""The translation of each operator of PyTorch, by its name without overload."""
