"""ControlNet-LLLite: small modules that nudge the inputs of a U-Net's attention by a picture.

kohya-ss/sd-scripts (`networks/control_net_lllite.py`), for SDXL. Each module reads the picture by
convolutions of its own, mixes that with its layer's input, and adds the result to the input.
Module names are those of the files.

Shapes: B batch, H W pixels, h w height and width of the layer's feature map, N = h w tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.models.attention import Nudge
from safelight.models.layers import Conv2d, Linear
from safelight.models.unet import Residuals, UNetConfig

FACTOR = 8
# Kernels, which are the strides too, by depth: 8, 16 and 32 pixels become one place.
_STRIDES = {1: (4, 2), 2: (4, 4), 3: (4, 4, 2)}


@dataclass(frozen=True, slots=True)
class LLLiteModuleConfig:
    """One module: its name in the file, our name of its layer, and its widths.

    depth: 1 to 3, by which the picture becomes as small as the layer's feature map.
    """

    name: str
    layer: str
    width: int
    picture_width: int
    inner_width: int
    depth: int


@dataclass(frozen=True, slots=True)
class LLLiteConfig:
    """The shape of a ControlNet-LLLite, and of the U-Net that it nudges."""

    unet: UNetConfig
    modules: tuple[LLLiteModuleConfig, ...]


class LLLite(nn.Module):
    """A picture -> what to add to the inputs of attention's projections."""

    __call__: Callable[..., Residuals]

    def __init__(self, config: LLLiteConfig) -> None:
        super().__init__()
        self.config = config
        for own in config.modules:
            self.add_module(own.name, _Module(own))
        self._by_layer = {own.layer: (i, own.name) for i, own in enumerate(config.modules)}

    @property
    def channels(self) -> int:
        return 3

    @property
    def factor(self) -> int:
        return FACTOR

    @property
    def residuals(self) -> int:
        return 0

    def check_fits(self, unet: UNetConfig) -> None:
        """Raise RequestError, with what differs, if it was made for another family of U-Net."""
        own = self.config.unet
        if (own.channels, own.depths) != (unet.channels, unet.depths):
            raise RequestError(
                "this ControlNet-LLLite was made for another family: it has levels of "
                f"{own.channels} channels and depths {own.depths}, and the model {unet.channels} "
                f"and {unet.depths}"
            )

    def check_types(self, types: tuple[int, ...]) -> None:
        """Raise RequestError for any type: it reads one kind of picture."""
        if types:
            raise RequestError("this ControlNet-LLLite reads one kind of picture; give it no type")

    def look(self, image: Tensor, types: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
        """What each module sees of a picture (B, 3, H, W) in [0, 1]: (B, N, picture width)."""
        centred = 2.0 * image - 1.0
        return tuple(self._module(own.name).look(centred) for own in self.config.modules)

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
        """The nudges by what `look` saw; they depend on each layer's input and nothing else."""

        def nudge(layer: str, tokens: Tensor) -> Tensor | None:
            if layer not in self._by_layer:
                return None
            i, name = self._by_layer[layer]
            return self._module(name)(tokens, seen[i])

        return Residuals(nudges=(Nudge(nudge),))

    def _module(self, name: str) -> "_Module":
        module = getattr(self, name)
        assert isinstance(module, _Module)
        return module


class _Module(nn.Module):
    """One nudge: a layer's input (B, N, width) and the picture's tokens -> what to add."""

    __call__: Callable[..., Tensor]

    def __init__(self, own: LLLiteModuleConfig) -> None:
        super().__init__()
        half, whole = own.picture_width // 2, own.picture_width
        strides = _STRIDES[own.depth]
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            last = i == len(strides) - 1
            layers.append(Conv2d(half if i else 3, whole if last else half, stride, stride=stride))
            layers += [] if last else [nn.ReLU()]
        self.depth = own.depth
        self.conditioning1 = nn.Sequential(*layers)
        self.down = nn.Sequential(Linear(own.width, own.inner_width), nn.ReLU())
        self.mid = nn.Sequential(Linear(own.inner_width + whole, own.inner_width), nn.ReLU())
        self.up = nn.Sequential(Linear(own.inner_width, own.width))

    def look(self, image: Tensor) -> Tensor:
        """The picture as tokens, one for each of the layer's: (B, N, picture width)."""
        y: Tensor = self.conditioning1(image)
        size = tuple(-(-side // (FACTOR * 2 ** (self.depth - 1))) for side in image.shape[2:])
        if y.shape[2:] != size:  # the U-Net rounds odd sizes up, convolutions round them down
            y = F.interpolate(y, size=size, mode="nearest-exact")
        return y.flatten(2).mT

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        down: Tensor = self.down(x)
        nudge: Tensor = self.up(self.mid(torch.cat([tokens.to(down.dtype), down], -1)))
        return nudge
