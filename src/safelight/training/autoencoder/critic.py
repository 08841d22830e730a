"""The critic that tells patches of reconstructions from patches of pictures, and its losses.

PatchGAN: Isola et al. 2017 (arXiv:1611.07004); as the autoencoder's second player: Esser et al.
2021 (arXiv:2012.09841) and Rombach et al. 2022 (arXiv:2112.10752), appendix G.

Shapes: B batch, H W pixels, h w patches, K channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from safelight.errors import RequestError
from safelight.models.layers import GroupNorm, cast_like

Norm = Literal["group", "spectral", "none"]

_SLOPE = 0.2  # of the leaky rectifiers, as in Isola et al.
_MOST = 1e4  # of the adaptive weight, as in Rombach et al.


@dataclass(frozen=True)
class CriticConfig:
    """The shape of a critic: convolutions of 4 x 4, all but the last of stride 2.

    The default has 0.56 million weights and sees patches of 70 x 70 pixels. No batch norms: rows of
    a batch must not see each other. Raises RequestError if the groups do not divide the widths.
    """

    widths: tuple[int, ...] = (32, 64, 128, 192)
    norm: Norm = "group"
    groups: int = 16
    channels: int = 3

    def __post_init__(self) -> None:
        odd = [width for width in self.widths if self.groups < 1 or width % self.groups]
        if not self.widths or (self.norm == "group" and odd):
            raise RequestError(
                "a critic needs widths that its groups divide; got"
                f" {list(self.widths)} and {self.groups} groups"
            )

    def build(self) -> "Critic":
        return Critic(self)


class Critic(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to a logit a patch, (B, 1, h, w): high for real ones."""

    __call__: Callable[..., Tensor]

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        layers: list[nn.Module] = [self._conv(config.channels, widths[0], stride=2)]
        for i, (before, width) in enumerate(pairwise(widths)):
            layers.append(self._conv(before, width, stride=2 if i < len(widths) - 2 else 1))
            normed = config.norm == "group"
            layers.append(GroupNorm(config.groups, width, 1e-6) if normed else nn.Identity())
        self.layers = nn.ModuleList(layers)
        self.conv_out = self._conv(widths[-1], 1, stride=1)
        self.averages = Averages()

    def _conv(self, before: int, width: int, *, stride: int) -> "CriticConv":
        return CriticConv(before, width, stride=stride, spectral=self.config.norm == "spectral")

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.leaky_relu(self.layers[0](pictures), _SLOPE)
        for i in range(1, len(self.layers), 2):
            x = F.leaky_relu(self.layers[i + 1](self.layers[i](x)), _SLOPE)
        return self.conv_out(x)

    @torch.no_grad()
    def settle(self) -> None:
        """One power iteration in every spectral norm; called once at each of the critic's turns.

        Not a part of `forward`, so that the other player's turn changes nothing here.
        """
        for module in self.modules():
            if isinstance(module, CriticConv):
                module.settle()


class CriticConv(nn.Module):
    """A convolution of 4 x 4, its weight divided by its largest singular value if `spectral`.

    Miyato et al. 2018 (arXiv:1802.05957).
    """

    __call__: Callable[..., Tensor]
    direction: Tensor | None

    def __init__(self, before: int, width: int, *, stride: int, spectral: bool) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.randn(width, before, 4, 4) * 0.02)
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("direction", _unit(torch.randn(width)) if spectral else None)

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        if self.direction is not None:
            left = _unit(self.direction.float())
            rows = weight.float().flatten(1)
            right = _unit(left @ rows.detach())
            weight = weight / (left @ rows @ right).to(weight.dtype)
        return F.conv2d(cast_like(x, weight), weight, self.bias, stride=self.stride, padding=1)

    @torch.no_grad()
    def settle(self) -> None:
        """One step of the power iteration towards the largest singular value."""
        if self.direction is not None:
            rows = self.weight.float().flatten(1)
            self.direction.copy_(_unit(rows @ _unit(self.direction.float() @ rows)))


class Averages(nn.Module):
    """Slow averages of the logits of pictures and reconstructions, for LeCam.

    They stay float32 when the critic is cast: in bfloat16 a slow average stands still.
    """

    real: Tensor
    fake: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    @torch.no_grad()
    def follow(self, real: Tensor, fake: Tensor, decay: float) -> None:
        """Move towards the means of logits, over all processes if there are several."""
        means = torch.stack([real.detach().float().mean(), fake.detach().float().mean()])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(means)
            means = means / distributed.get_world_size()
        self.real.lerp_(means[0], 1.0 - decay)
        self.fake.lerp_(means[1], 1.0 - decay)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Averages":
        for name, buffer in list(self.named_buffers(recurse=False)):
            moved = fn(buffer)
            # A cast would round before it could be undone, so the value is moved from the original.
            kept = moved if moved.dtype == torch.float32 else buffer.to(moved.device)
            self._buffers[name] = kept
        return self


# -- losses ----------------------------------------------------------------------------------------


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The critic's loss: half the means by which logits miss 1 and -1. A scalar, float32."""
    return 0.5 * (F.relu(1.0 - real.float()).mean() + F.relu(1.0 + fake.float()).mean())


def lecam(real: Tensor, fake: Tensor, averages: Averages) -> Tensor:
    """How far logits run past the slow averages of the other side: a scalar.

    Keeps a critic with little data from being ever surer. Tseng et al. 2021 (arXiv:2104.03310).
    """
    above = F.relu(real.float() - averages.fake).square().mean()
    below = F.relu(averages.real - fake.float()).square().mean()
    return above + below


def r1(critic: Critic, pictures: Tensor, signs: Tensor) -> Tensor:
    """Mean over patches of the squared gradient of a real patch's logit: a scalar.

    `signs` (B, 1, h, w) are -1 or 1 at random: the gradient of a sum with random signs has, in
    expectation, the sum of the patches' squared gradients, for the price of one.
    Mescheder et al. 2018 (arXiv:1801.04406).
    """
    leaf = pictures.detach().float().requires_grad_()
    with torch.compiler.set_stance("force_eager"):  # compiled code has no second derivative
        logits = critic(leaf)
    (slope,) = torch.autograd.grad((logits.float() * signs).sum(), leaf, create_graph=True)
    return slope.square().sum() / signs.numel()


def adaptive_weight(
    features: Tensor, weight_shape: torch.Size, rebuilding: Tensor, fooling: Tensor
) -> Tensor:
    """What makes two losses pull equally at the decoder's last convolution: a scalar, clamped.

    features (B, K, H, W) are what that convolution reads, and rebuilding and fooling (B, C, H, W)
    the gradients of the two losses with respect to what it gives. Those of its weight follow, so no
    second pass through the network is needed, and it makes no difference whether the weight learns.
    Esser et al. 2021 (arXiv:2012.09841), eq. 7.
    """
    pulls = (_of_weight(features, weight_shape, gradient) for gradient in (rebuilding, fooling))
    strong, weak = (torch.linalg.vector_norm(pull.float()) for pull in pulls)
    ratio: Tensor = strong / (weak + 1e-12)
    return ratio.clamp(0.0, _MOST).detach()


def _of_weight(features: Tensor, shape: torch.Size, gradient: Tensor) -> Tensor:
    """The gradient of a convolution's weight: (C, K, k, k)."""
    of_type = gradient.to(features.dtype)
    result: Tensor = conv2d_weight(features, shape, of_type, padding=shape[-1] // 2)
    return result


def _unit(vector: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vector)
    return vector / (length + 1e-12)
