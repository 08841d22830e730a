"""T2I-Adapter: a small network that reads a picture once and adds to a U-Net's way down.

Mou et al. 2023 (arXiv:2302.08453): the full and the light one for SD 1.x, and the full one for XL.
Module names are those of the Diffusers layout, without its `adapter.`.

Shapes: B batch, H W pixels, h w latent height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import CheckpointError, RequestError
from safelight.models.layers import Conv2d
from safelight.models.unet import Residuals, UNetConfig

MOST = 64  # stages, and blocks of each: more are forged


@dataclass(frozen=True, slots=True)
class T2IAdapterConfig:
    """The shape of a T2I-Adapter. Defaults: the full one for SD 1.x.

    down: which of its stages begin by halving the size. unshuffle: pixels, each way, that become
    channels at the start. Raises CheckpointError if the parts do not fit together.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)  # of each stage; one for each feature
    down: tuple[bool, ...] = (False, True, True, True)
    blocks: int = 2  # residual blocks in each stage
    pictures: int = 3  # channels of the picture
    unshuffle: int = 8
    light: bool = False
    factor: int = 8  # pixels of the picture, each way, for one of the latents

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= MOST or len(self.down) != len(self.channels):
            raise CheckpointError(
                "a T2I-Adapter needs one width and one halving for each stage; "
                f"got {len(self.channels)} and {len(self.down)}"
            )
        if self.unshuffle < self.factor or self.unshuffle % self.factor or self.pictures < 1:
            raise CheckpointError(
                f"a T2I-Adapter makes {self.factor} or more pixels each way one place; "
                f"got {self.unshuffle}, of {self.pictures} channels"
            )
        if not 0 < self.blocks <= MOST or min(self.channels) < 1:
            raise CheckpointError(
                f"a T2I-Adapter of widths {self.channels} with {self.blocks} blocks each cannot be "
                "built"
            )
        if self.light and any(width % 4 for width in self.channels):
            raise CheckpointError(
                f"the widths of a light T2I-Adapter are multiples of 4; got {self.channels}"
            )

    def places(self) -> list[tuple[int, int]]:
        """Width of each feature, and how many latents, each way, one place of it covers."""
        found, size = [], self.unshuffle // self.factor
        for width, halves in zip(self.channels, self.down, strict=True):
            size *= 2 if halves else 1
            found.append((width, size))
        return found


SD1_FULL = T2IAdapterConfig()
SD1_LIGHT = T2IAdapterConfig(blocks=4, light=True)
XL_FULL = T2IAdapterConfig(down=(False, False, True, False), unshuffle=16)


class T2IAdapter(nn.Module):
    """A picture -> features that a U-Net adds on its way down; the same at every step.

    Built under `torch.device("meta")` it costs no memory and no random numbers; assign the weights.
    """

    __call__: Callable[..., Residuals]

    def __init__(self, config: T2IAdapterConfig) -> None:
        super().__init__()
        self.config = config
        pixels = config.pictures * config.unshuffle**2
        first = pixels if config.light else config.channels[0]
        if not config.light:
            self.conv_in = Conv2d(pixels, first, 3, padding=1)
        before = (first, *config.channels)
        stage = _LightStage if config.light else _Stage
        self.body = nn.ModuleList(
            stage(before[i], width, config.blocks, down=config.down[i])
            for i, width in enumerate(config.channels)
        )

    @property
    def channels(self) -> int:
        return self.config.pictures

    @property
    def factor(self) -> int:
        return self.config.factor

    @property
    def residuals(self) -> int:
        return len(self.config.channels)

    def check_fits(self, unet: UNetConfig) -> None:
        """Raise RequestError, with both shapes, if it was made for another family of U-Net."""
        own, there = self.config.places(), inner_places(unet)
        if own != there[: len(own)]:
            raise RequestError(
                "this T2I-Adapter was made for another family: its features are "
                f"{_words(own)}, and the model takes {_words(there)}"
            )

    def check_types(self, types: tuple[int, ...]) -> None:
        """Raise RequestError for any type: it reads one kind of picture."""
        if types:
            raise RequestError("this T2I-Adapter reads one kind of picture only; give it no type")

    def look(self, image: Tensor, types: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
        """The features (B, width, ., .) of a picture (B, channels, H, W), one for each stage.

        Raises RequestError if H or W are no multiple of `unshuffle`.
        """
        step = self.config.unshuffle
        if image.shape[2] % step or image.shape[3] % step:
            raise RequestError(
                f"this T2I-Adapter needs sides that are multiples of {step}; "
                f"got {image.shape[3]}x{image.shape[2]}"
            )
        x = F.pixel_unshuffle(image, step)
        if not self.config.light:
            x = self.conv_in(x)
        features = []
        for stage in self.body:
            x = stage(x)
            features.append(x)
        return tuple(features)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        *,
        seen: tuple[Tensor, ...],
        types: tuple[int, ...] = (),
        concat: Tensor | None = None,
        level: Tensor | None = None,
        checkpointing: bool = False,
    ) -> Residuals:
        """The features that `look` saw; nothing else matters to it."""
        return Residuals(inner=seen)


class _Stage(nn.Module):
    """Half the size, the width, then residual blocks. (B, C_in, ., .) -> (B, C_out, ., .)."""

    __call__: Callable[..., Tensor]

    def __init__(self, in_channels: int, channels: int, blocks: int, *, down: bool) -> None:
        super().__init__()
        self.down = down
        self.in_conv = Conv2d(in_channels, channels, 1) if in_channels != channels else None
        self.resnets = nn.ModuleList(_Block(channels, 1) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = _halved(x) if self.down else x
        x = x if self.in_conv is None else self.in_conv(x)
        for block in self.resnets:
            x = block(x)
        return x


class _LightStage(nn.Module):
    """As `_Stage`, at a quarter of the width inside."""

    __call__: Callable[..., Tensor]

    def __init__(self, in_channels: int, channels: int, blocks: int, *, down: bool) -> None:
        super().__init__()
        self.down = down
        self.in_conv = Conv2d(in_channels, channels // 4, 1)
        self.resnets = nn.ModuleList(_Block(channels // 4, 3) for _ in range(blocks))
        self.out_conv = Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(_halved(x) if self.down else x)
        for block in self.resnets:
            x = block(x)
        return self.out_conv(x)


class _Block(nn.Module):
    """Convolution, ReLU, convolution, + input."""

    __call__: Callable[..., Tensor]

    def __init__(self, channels: int, last: int) -> None:
        super().__init__()
        self.block1 = Conv2d(channels, channels, 3, padding=1)
        self.block2 = Conv2d(channels, channels, last, padding=last // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.block2(F.relu(self.block1(x))) + x


def _halved(x: Tensor) -> Tensor:
    # Rounds up, as the U-Net does on its way down.
    return F.avg_pool2d(x, 2, ceil_mode=True)


def inner_places(unet: UNetConfig) -> list[tuple[int, int]]:
    """Width of what a U-Net adds at each `Residuals.inner`, and how many latents a place covers.

    A level with attention adds before it is halved, one without after.
    """
    last = unet.levels - 1
    found = [
        (width, 2 ** (i + (not any(unet.depths[i]) and i < last)))
        for i, width in enumerate(unet.channels)
    ]
    return [*found, (unet.channels[-1], 2**last)]


def _words(places: list[tuple[int, int]]) -> str:
    return ", ".join(f"{width} wide at 1/{size}" for width, size in places)
