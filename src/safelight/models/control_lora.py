"""ControlLoRA: a ControlNet that is its U-Net's first half, changed by low-rank products.

Stability AI's control-lora for SDXL. Its layers hold the U-Net's own weights, not copies of them,
and add the change through their slot for deltas.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from safelight.models.layers import Conv2d

SLOT = "control"


class LowRank(nn.Module):
    """up @ down, as what a layer adds to its output: of a Linear, or of a Conv2d like `layer`.

    down (r, in) and up (out, r); of a convolution down (r, in, k, k) and up (out, r, 1, 1).
    """

    __call__: Callable[[Tensor], Tensor]

    def __init__(self, up: Tensor, down: Tensor, layer: nn.Module) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)
        self.stride: tuple[int, ...] | None = None
        if isinstance(layer, Conv2d):
            self.stride = layer.stride
            assert not isinstance(layer.padding, str), "our convolutions pad by numbers"
            self.padding = layer.padding

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.down.dtype)
        if self.stride is None:
            return F.linear(F.linear(x, self.down), self.up)
        narrow = F.conv2d(x, self.down, stride=self.stride, padding=self.padding)
        return F.conv2d(narrow, self.up)
