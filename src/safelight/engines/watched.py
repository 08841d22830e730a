"""A network under the sentinel's eyes."""

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor, nn

from safelight.condition import Condition
from safelight.engines.sentinel import Sentinel
from safelight.models.backbone import Backbone
from safelight.models.deep_features import Kept

PART = "U-Net"
CONTROLLED = "U-Net with its controls"


@dataclass(frozen=True)
class Watched:
    """A network whose non-finite outputs are caught, named and computed again in float32.

    Control networks are watched with it: what they add may be what is not finite. If an engine
    computes the network and fails, its modules are asked themselves.
    """

    network: Backbone
    sentinel: Sentinel

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        network, runner = self.network, self.network.runner
        if runner is None:
            return self.sentinel.run(self._part, self._modules, lambda: network(x, time, condition))
        return self.sentinel.run(
            self._part,
            self._modules,
            lambda: replace(network, runner=None)(x, time, condition),
            engine=runner.name,
            by_engine=lambda: network(x, time, condition),
        )

    def with_attention(
        self, x: Tensor, time: Tensor, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        return self.sentinel.run(
            self._part, self._modules, lambda: self.network.with_attention(x, time, condition)
        )

    def with_deep(
        self, x: Tensor, time: Tensor, condition: Condition, *, blocks: int, kept: Kept | None
    ) -> tuple[Tensor, Kept]:
        return self.sentinel.run(
            self._part,
            self._modules,
            lambda: self.network.with_deep(x, time, condition, blocks=blocks, kept=kept),
        )

    @property
    def _part(self) -> str:
        return CONTROLLED if self.network.control_networks else PART

    @cached_property
    def _modules(self) -> nn.Module:
        unet, controls = self.network.unet, self.network.control_networks
        if not controls:
            return unet
        networks = {name: net for name, net in controls.items() if isinstance(net, nn.Module)}
        return nn.ModuleDict({"unet": unet, **networks})
