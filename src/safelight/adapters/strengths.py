"""How strongly an adapter acts: on the U-Net, on the text encoders, and block by block."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from safelight.adapters.adapter import UNET
from safelight.errors import RequestError
from safelight.printable import shown


@dataclass(frozen=True)
class Strengths:
    """Factors of what an adapter changes; 0 leaves the model as it is, 1 is how it was taught.

    unet, text: of the U-Net, and of every text encoder.
    blocks: further factors by the start of a module's path, such as "down_blocks.1" or
        "text_encoder.text_model.encoder.layers.3"; the longest that fits counts, 1 where none does.
        `safelight.adapters.blocks` translates the words IN01, M00, OUT05 to paths.
    """

    unet: float = 1.0
    text: float = 1.0
    blocks: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def of(self, part: str, path: str) -> float:
        """The strength on one layer."""
        whole = self.unet if part == UNET else self.text
        best, factor = -1, 1.0
        for start, value in self.blocks.items():
            if len(start) > best and (_under(path, start) or _under(f"{part}.{path}", start)):
                best, factor = len(start), value
        return whole * factor

    def check(self, adapter: str, layers: Collection[tuple[str, str]]) -> None:
        """Raise RequestError for what is no strength of an adapter of this name.

        That is a number that is not finite, and a block that none of the model's layers (part,
        path) lies in.
        """
        values = (self.unet, self.text, *self.blocks.values())
        if not all(math.isfinite(value) for value in values):
            raise RequestError(
                f"the strengths of the adapter {shown(adapter)} must be finite numbers; got "
                f"{', '.join(map(str, values))}"
            )
        for start in self.blocks:
            if not any(_under(path, start) or _under(f"{p}.{path}", start) for p, path in layers):
                raise RequestError(
                    f"no layer of this model lies in the block {shown(start)}; name the start of "
                    f"a path, such as 'down_blocks.1' or 'mid_block'"
                )


def _under(path: str, start: str) -> bool:
    return path == start or path.startswith(start + ".")
