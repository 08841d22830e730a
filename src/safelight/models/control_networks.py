"""What every control network offers, and how what several of them add becomes one sum.

Shapes: B batch, C latent channels, h w latent height and width, H W height and width in pixels.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from safelight.errors import RequestError
from safelight.models.unet import Residuals, UNetConfig


class ControlNetwork(Protocol):
    """A network that reads a picture and adds to what a U-Net feels: ControlNet, T2I-Adapter.

    channels: of the picture, for each of its types. factor: pixels of the picture, each way, for
    one of the latents. residuals: how many tensors it adds; 0 for one that only nudges.
    """

    @property
    def channels(self) -> int: ...
    @property
    def factor(self) -> int: ...
    @property
    def residuals(self) -> int: ...

    def check_fits(self, unet: UNetConfig) -> None:
        """Raise RequestError, with what differs, if it was made for another family of U-Net."""
        ...

    def check_types(self, types: tuple[int, ...]) -> None:
        """Raise RequestError if it cannot read pictures of these types."""
        ...

    def look(self, image: Tensor, types: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
        """What it makes of a picture (B, channels, H, W) in [0, 1], whatever the latents."""
        ...

    def __call__(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        vector: Tensor | None,
        *,
        seen: tuple[Tensor, ...],
        types: tuple[int, ...] = (),
        concat: Tensor | None = None,
        level: Tensor | None = None,
        checkpointing: bool = False,
    ) -> Residuals:
        """What it adds: latents x (B, C, h, w) as the U-Net sees them, and `seen` from `look`."""
        ...


def check_control(
    network: ControlNetwork, image: Tensor, types: tuple[int, ...], size: tuple[int, int]
) -> None:
    """Raise RequestError, with both numbers, for a picture that does not fit latents of `size`.

    A network of grey pictures takes coloured ones too; see `look`.
    """
    network.check_types(types)
    channels = network.channels * max(1, len(types))
    if image.shape[1] != channels and not _coloured(network, image):
        raise RequestError(
            f"this control network reads pictures of {channels} channels; got {image.shape[1]}"
        )
    height, width = size[0] * network.factor, size[1] * network.factor
    if image.shape[2:] != (height, width):
        raise RequestError(
            f"the control picture is {image.shape[3]}x{image.shape[2]}, but the picture to draw is "
            f"{width}x{height}; resize the control picture to it"
        )


def look(network: ControlNetwork, image: Tensor, types: tuple[int, ...]) -> tuple[Tensor, ...]:
    """What a control network makes of a picture; coloured ones turn grey for one that needs it."""
    if _coloured(network, image):
        image = image.mean(1, keepdim=True)
    return network.look(image, types)


def _coloured(network: ControlNetwork, image: Tensor) -> bool:
    return network.channels == 1 and image.shape[1] == 3


def weighted(
    made: Residuals, scale: float, weights: tuple[float, ...] | None, name: str
) -> Residuals:
    """The residuals times the scale, and each times its own weight: skips, middle, inner.

    Raises RequestError if there are not as many weights as residuals.
    """
    if weights is None and scale == 1:
        return made
    tensors = [*made.skips, *(() if made.mid is None else (made.mid,)), *made.inner]
    factors = [scale] * len(tensors) if weights is None else [scale * w for w in weights]
    if len(factors) != len(tensors):
        raise RequestError(
            f"the control network {name!r} adds {len(tensors)} residuals, "
            f"but {len(factors)} weights were given; give one for each"
        )
    scaled = tuple(t * f for t, f in zip(tensors, factors, strict=True))
    count = len(made.skips)
    middle = 0 if made.mid is None else 1
    return Residuals(
        scaled[:count],
        scaled[count] if middle else None,
        scaled[count + middle :],
        tuple(nudge._replace(scale=scale * nudge.scale) for nudge in made.nudges),
    )


def summed(made: Sequence[Residuals], dtype: torch.dtype) -> Residuals | None:
    """The sum of what several control networks add, in the U-Net's type; None of none."""
    if not made:
        return None
    mids = [each.mid for each in made if each.mid is not None]
    return Residuals(
        _sums([each.skips for each in made], dtype),
        _sum(mids, dtype) if mids else None,
        _sums([each.inner for each in made], dtype),
        tuple(nudge for each in made for nudge in each.nudges),
    )


def _sums(parts: Sequence[tuple[Tensor, ...]], dtype: torch.dtype) -> tuple[Tensor, ...]:
    count = max(len(part) for part in parts)
    return tuple(_sum([part[i] for part in parts if i < len(part)], dtype) for i in range(count))


def _sum(tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    total = tensors[0].to(dtype)
    for tensor in tensors[1:]:
        total = total + tensor.to(dtype)
    return total
