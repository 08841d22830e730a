"""A network under the sentinel's eyes."""

from dataclasses import dataclass

from torch import Tensor

from safelight.condition import Condition
from safelight.engines.sentinel import Sentinel
from safelight.models.backbone import Backbone

PART = "U-Net"


@dataclass(frozen=True)
class Watched:
    """A network whose non-finite outputs are caught, named and computed again in float32."""

    network: Backbone
    sentinel: Sentinel

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return self.sentinel.run(PART, self.network.unet, lambda: self.network(x, time, condition))

    def with_attention(
        self, x: Tensor, time: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        return self.sentinel.run(
            PART, self.network.unet, lambda: self.network.with_attention(x, time, condition)
        )
