"""The layers that every network here is built of.

Shapes: B batch, N tokens, C channels, h w height and width.

Four rules hold for `Linear`, `Conv2d`, `GroupNorm` and `LayerNorm`:

- Casting: a layer casts its input to the type of its weight. So a network runs in the type of its
  weights, and may mix them (norms in float32, the rest in bfloat16). Under autocast, torch decides.
- Deltas: `Linear` and `Conv2d` have a slot `deltas`, an `nn.ModuleDict` of modules that are called
  with the layer's input and the layer, and whose output is added to its own (LoRA).
- Changes: all four have a slot `changes`, an `nn.ModuleDict` of modules that are called with weight
  and bias and return those that the layer shall work with, one after the other (DoRA and whatever
  else is no sum; differentiable, so that it can be learned).
- Learning: a layer in training mode gives the same bits whether or not a gradient is recorded. What
  draws (`eval`) may go through kernels that have no gradient and round otherwise.

Empty slots add no keys to the state dict. `Linear.applied` and `Conv2d.applied` are what a layer
does to its input, for a weight that a delta brings.

None keeps a buffer, so a network built under `torch.device("meta")` is complete once its weights
are assigned.

A picture that shall continue at its other side is drawn with `Conv2d.wrap`: the border is then
padded with what lies at the other end instead of zeros. `wrapped` sets it for a while. Attention
and norms do not know where a place lies, so nothing else of these networks need change.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.models import cpu_convolution, cpu_product
from safelight.models.cpu_convolution import convolution
from safelight.models.cpu_product import gelu_of_product, linear, product, recorded
from safelight.models.folded_upsample import doubled, kernels_of

_HIDDEN = 2**21  # numbers between the two layers of a feed-forward that are held at a time


@dataclass(frozen=True, slots=True)
class Wrap:
    """The axes along which a picture continues at its other side; false if none."""

    x: bool = False  # the right end meets the left one
    y: bool = False  # the lower end meets the upper one

    def __bool__(self) -> bool:
        return self.x or self.y


NO_WRAP = Wrap()


def cast_like(x: Tensor, weight: Tensor) -> Tensor:
    """The input of a layer in the type of its weight; unchanged under autocast."""
    if x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(weight.dtype)


class Linear(nn.Linear):
    """torch's Linear with slots for deltas and changes. (..., in) -> (..., out)."""

    __call__: Callable[..., Tensor]

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.deltas = nn.ModuleDict()
        self.changes = nn.ModuleDict()

    def forward(self, x: Tensor) -> Tensor:
        x = cast_like(x, self.weight)
        y = self.applied(x, *_changed(self.weight, self.bias, self.changes))
        for delta in self.deltas.values():
            # Deltas are often kept in float32; the layer's own type must not change with them.
            y = y + delta(x, self).to(y.dtype)
        return y

    def applied(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What a layer with this weight does: (..., in), (n, in), (n,) -> (..., n)."""
        return linear(x, weight, bias, learns=self.training)


class Conv2d(nn.Conv2d):
    """torch's Conv2d with slots for deltas and changes. (B, C_in, h, w) -> (B, C_out, h', w').

    Along the axes of `wrap` the padding is the other end of the map; raises RequestError if a
    stride does not divide such an axis, for the ends would not meet again.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias
        )
        self.deltas = nn.ModuleDict()
        self.changes = nn.ModuleDict()
        self.wrap = NO_WRAP

    def forward(self, x: Tensor) -> Tensor:
        x = cast_like(x, self.weight)
        y = self.applied(x, *_changed(self.weight, self.bias, self.changes))
        for delta in self.deltas.values():
            y = y + delta(x, self).to(y.dtype)
        return y

    def applied(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What a layer with this weight does: (B, C, h, w), (n, C, k, k), (n,) -> (B, n, h', w').

        Stride, padding and its wrap are the layer's own.
        """
        padding = self.padding
        if self.wrap and any(padding):
            _check_ends(x, self.wrap, self.stride)
            above, aside = (int(p) for p in padding)
            x = _padded(x, self.wrap, (aside, aside, above, above))
            padding = (0, 0)
        if self.training:
            return F.conv2d(x, weight, bias, self.stride, padding)
        return convolution(x, weight, bias, self.stride, padding)  # type: ignore[arg-type]


@contextmanager
def wrapped(*modules: nn.Module, x: bool = False, y: bool = False) -> Iterator[None]:
    """For as long as it is entered, the maps of these modules continue at their other side.

    Sets `Conv2d.wrap` of every layer, which is that of its deltas too, and restores it. Rolling the
    input by a multiple of all strides together then rolls the output.
    """
    convs = [m for module in modules for m in module.modules() if isinstance(m, Conv2d)]
    before = [conv.wrap for conv in convs]
    try:
        for conv in convs:
            conv.wrap = Wrap(x, y)
        yield
    finally:
        for conv, wrap in zip(convs, before, strict=True):
            conv.wrap = wrap


def _padded(x: Tensor, wrap: Wrap, pad: tuple[int, int, int, int]) -> Tensor:
    """The map with (left, right, above, below) more places: its other end, or zeros."""
    left, right, above, below = pad
    if wrap.x and (left or right):
        x = F.pad(x, (left, right, 0, 0), mode="circular")
        left = right = 0
    if wrap.y and (above or below):
        x = F.pad(x, (0, 0, above, below), mode="circular")
        above = below = 0
    return F.pad(x, (left, right, above, below)) if left or right or above or below else x


def _check_ends(x: Tensor, wrap: Wrap, stride: tuple[int, ...]) -> None:
    axes = (("high", wrap.y, x.shape[2], stride[0]), ("wide", wrap.x, x.shape[3], stride[1]))
    for name, round_about, length, step in axes:
        if round_about and length % step:
            raise RequestError(
                f"a map {length} {name} cannot continue at its other side through a layer that "
                f"takes every {step}. place; make that side of the picture a multiple of 64 pixels."
            )


def _changed(
    weight: Tensor, bias: Tensor | None, changes: nn.ModuleDict
) -> tuple[Tensor, Tensor | None]:
    for change in changes.values():
        weight, bias = change(weight, bias)
    return weight, bias


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm under the casting rule; keeps the memory format. (B, C, ...)."""

    __call__: Callable[..., Tensor]

    def __init__(self, groups: int, channels: int, eps: float) -> None:
        super().__init__(groups, channels, eps)
        self.changes = nn.ModuleDict()

    def forward(self, x: Tensor) -> Tensor:
        x = cast_like(x, self.weight)
        weight, bias = _changed(self.weight, self.bias, self.changes)
        if not self.training and _slow_in_bfloat16(x, weight, self.num_groups):
            shift = None if bias is None else bias.float()
            return F.group_norm(x.float(), self.num_groups, weight.float(), shift, self.eps).to(x)
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


def _slow_in_bfloat16(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether the way through float32 and back takes a fifth to three fifths of the time.

    PyTorch's kernel for channels-last maps of less than 1024 places goes through the channels of a
    group, and in bfloat16 needs 64 of them to do so in vectors.
    """
    return (
        type(x) is Tensor
        and x.dtype == torch.bfloat16
        and x.ndim == 4
        and x.shape[2] * x.shape[3] < 1024
        and x.shape[1] < 64 * groups
        and cpu_product.plain(x, weight)
        and not recorded(x, weight)
        and not x.is_contiguous()
    )


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm over the last dimension, under the casting rule. (..., C)."""

    __call__: Callable[..., Tensor]

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, eps)
        self.changes = nn.ModuleDict()

    def forward(self, x: Tensor) -> Tensor:
        x = cast_like(x, self.weight)
        weight, bias = _changed(self.weight, self.bias, self.changes)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


def own_silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that only the caller knows; in its place where nothing is recorded."""
    return F.silu(x, inplace=_alone(x))


def added_to_own(own: Tensor, other: Tensor) -> Tensor:
    """The sum, in the place of the first, which only the caller knows, where nothing is recorded.

    A large map costs more to allocate than to add.
    """
    if _alone(own, other) and own.dtype == other.dtype:
        return own.add_(other)
    return own + other


def _alone(*tensors: Tensor) -> bool:
    """Whether nobody sees what is done in the place of these: no gradient, compiler or map."""
    return (
        not torch.compiler.is_compiling()
        and all(type(x) is Tensor for x in tensors)
        and not recorded(*tensors)
        and not torch._C._is_tracing()
        and not torch._C._are_functorch_transforms_active()
    )


def timestep_embedding(time: Tensor, width: int, *, max_period: float = 10_000.0) -> Tensor:
    """Sinusoids of a time that need not be whole: (...) -> (..., width), float32.

    Cosines fill the first half and sines the second; frequency i is max_period ** (-i / half).
    Always float32: at t = 1000, bfloat16 would round the phase by several radians.
    An odd width ends in a zero. Ho et al. 2020 (arXiv:2006.11239), in Stable Diffusion's order.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    # In this order the frequencies have the very bits that the published networks were trained on.
    frequencies = torch.exp(-math.log(max_period) * steps / half)
    phase = time.to(torch.float32)[..., None] * frequencies  # (..., half)
    embedding = torch.cat([phase.cos(), phase.sin()], dim=-1)
    return F.pad(embedding, (0, width % 2))


def guidance_embedding(guidance_scale: Tensor, width: int) -> Tensor:
    """What a guidance-distilled network is told of the scale: (B,) -> (B, width), float32.

    Sinusoids of 1000 * (scale - 1); unlike those of the time, sines come first and the last
    frequency is exactly 1 / 10000. Luo et al. 2023 (LCM, arXiv:2310.04378).
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=guidance_scale.device)
    frequencies = torch.exp(-math.log(10_000.0) / (half - 1) * steps)
    phase = 1000.0 * (guidance_scale.to(torch.float32) - 1.0)[..., None] * frequencies
    embedding = torch.cat([phase.sin(), phase.cos()], dim=-1)
    return F.pad(embedding, (0, width % 2))


class TimeEmbedding(nn.Module):
    """Linear, SiLU, Linear: sinusoids or a vector -> the embedding that every block adds.

    (B, in) -> (B, out). With `guidance_width`, a projection of the guidance embedding (B, G) is
    added to the input first.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, in_width: int, out_width: int, guidance_width: int | None = None) -> None:
        super().__init__()
        self.linear_1 = Linear(in_width, out_width)
        self.linear_2 = Linear(out_width, out_width)
        self.cond_proj = None
        if guidance_width is not None:
            self.cond_proj = Linear(guidance_width, in_width, bias=False)

    def forward(self, x: Tensor, guidance: Tensor | None = None) -> Tensor:
        if self.cond_proj is not None and guidance is not None:
            x = x + self.cond_proj(guidance)
        return self.linear_2(F.silu(self.linear_1(x)))


class ResBlock(nn.Module):
    """Norm, SiLU, conv, (+ time), norm, SiLU, conv, + shortcut.

    (B, C_in, h, w) -> (B, C_out, h, w). `embedding` is (B, T), already through SiLU; blocks built
    with time_width None (autoencoders) take none.
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_width: int | None = None,
        groups: int = 32,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = None if time_width is None else Linear(time_width, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = None
        if in_channels != out_channels:
            self.conv_shortcut = Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        y = self.conv1(own_silu(self.norm1(x)))
        if self.time_emb_proj is not None:
            assert embedding is not None, "this block was built to be told the time"
            y = added_to_own(y, self.time_emb_proj(embedding)[:, :, None, None])
        y = self.conv2(own_silu(self.norm2(y)))
        return added_to_own(y, x if self.conv_shortcut is None else self.conv_shortcut(x))


class FeedForward(nn.Module):
    """Gated feed-forward (GEGLU): value times the exact GELU of the gate. (B, N, C) -> same.

    Shazeer 2020 (arXiv:2002.05202). The value is the first half of the projection.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, width: int, factor: int = 4) -> None:
        super().__init__()
        # The identity stands where training had a dropout, so that the names in files agree.
        self.net = nn.Sequential(
            Geglu(width, factor * width), nn.Identity(), Linear(factor * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        most = max(1, _HIDDEN // (8 * x.shape[0] * x.shape[-1]))
        if not _alone(x) or x.device.type != "cpu" or x.ndim != 3 or x.shape[1] <= most:
            y: Tensor = self.net(x)
            return y
        out: Tensor | None = None
        for start in range(0, x.shape[1], most):
            y = self.net(x[:, start : start + most])
            out = y.new_empty(x.shape) if out is None else out
            out[:, start : start + most] = y
        assert out is not None
        return out


class Geglu(nn.Module):
    """One projection to value and gate: (..., in) -> (..., out)."""

    __call__: Callable[..., Tensor]

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.proj = Linear(in_width, 2 * out_width)

    def forward(self, x: Tensor) -> Tensor:
        proj = self.proj
        plain = not (self.training or proj.deltas or proj.changes)
        if plain and not recorded(x, proj.weight, proj.bias):
            x = cast_like(x, proj.weight)
            if cpu_product.served(x, proj.weight, proj.bias):
                # The two halves apart, so that oneDNN takes the GELU while it holds the sums.
                (up, through), (shift, by) = proj.weight.chunk(2), proj.bias.chunk(2)
                return gelu_of_product(x, through, by).mul_(product(x, up, shift))
        value, gate = proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class Downsample(nn.Module):
    """Half the size by a strided convolution. (B, C, h, w) -> (B, C, h', w').

    U-Nets pad one pixel on every side (h' = ceil(h / 2)); the autoencoder's encoder was trained
    with one row below and one column at the right only (`asymmetric`, h' = floor(h / 2)).
    """

    __call__: Callable[..., Tensor]

    def __init__(self, channels: int, *, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.asymmetric:
            _check_ends(x, self.conv.wrap, self.conv.stride)
            x = _padded(x, self.conv.wrap, (0, 1, 0, 1))
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest neighbour to twice the size, or to `size`, then a convolution."""

    __call__: Callable[..., Tensor]

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return of_enlarged(self.conv, x, size)


def of_enlarged(conv: Conv2d, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """What a 3 x 3 convolution says of the map at twice its size, or at `size`, nearest neighbour.

    (B, C, h, w) -> (B, C', *size). Where nothing learns, doubling is folded into the convolution.
    """
    twice = (2 * x.shape[2], 2 * x.shape[3])
    if size in (None, twice) and _folds(conv, x):
        return doubled(cast_like(x, conv.weight), kernels_of(conv), conv.bias)
    return conv(F.interpolate(x, size=size or twice, mode="nearest"))


def _folds(conv: Conv2d, x: Tensor) -> bool:
    """Whether doubling is best folded into the convolution; never while its weight learns."""
    return (
        not conv.training
        and not conv.weight.requires_grad
        and not (conv.wrap or conv.deltas or conv.changes)
        and cpu_convolution.served(conv.weight, conv.bias)
        and not recorded(x)
    )
