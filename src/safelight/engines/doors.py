"""What of a network may change between two calls besides its weights."""

from collections.abc import Iterator

from torch import nn

from safelight.models.layers import Conv2d, Wrap

SLOTS = ("deltas", "changes", "branches")


class Doors:
    """The slots of a network that adapters fill, and how its convolutions treat the border.

    Made once for a network, since looking for them takes longer than looking into them.
    """

    def __init__(self, network: nn.Module) -> None:
        self._slots = tuple(_slots(network))
        self._convs = tuple(m for m in network.modules() if isinstance(m, Conv2d))

    def inhabitants(self) -> tuple[nn.Module, ...]:
        """Every module in a slot, and those inside it."""
        return tuple(m for slot in self._slots if slot._modules for m in slot.modules())

    def wraps(self) -> tuple[tuple[int, Wrap], ...]:
        """The convolutions, by number, whose maps continue at their other side."""
        return tuple((i, conv.wrap) for i, conv in enumerate(self._convs) if conv.wrap)


def _slots(network: nn.Module) -> Iterator[nn.Module]:
    for module in network.modules():
        for name in SLOTS:
            slot = module._modules.get(name)
            if slot is not None:
                yield slot
