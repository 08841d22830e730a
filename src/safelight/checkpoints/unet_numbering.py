"""The numbered blocks of a U-Net, IN00 to OUT11, by which block weights are told.

The numbers are those of the original layout's `input_blocks` and `output_blocks`. Merge Block
Weighted, where the notation comes from, counts `time_embed` to the first block and `out` to the
last; BASE is what lies outside the U-Net. SD 1.x and 2.x have 25 blocks, XL has 19.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from safelight.checkpoints.keymap import KeyMap
from safelight.checkpoints.rows_unet import unet_rows
from safelight.models.unet import UNetConfig

BASE = "BASE"
MIDDLE = "M00"
_NUMBERED = re.compile(r"(input|output)_blocks\.(\d+)\.")


@lru_cache(maxsize=32)
def block_names(config: UNetConfig) -> tuple[str, ...]:
    """The blocks in the order of block weights: IN00, ..., M00, OUT00, ...; without BASE.

    A U-Net without a middle block has no M00.
    """
    found = {_numbered(row.theirs) for row in unet_rows(config)}
    ways = ("IN", MIDDLE, "OUT")
    return tuple(
        sorted((name for name in found if name), key=lambda name: (_way(name, ways), name))
    )


def block_finder(config: UNetConfig) -> Callable[[str], str]:
    """From one of our names of a U-Net's tensors to its block: `conv_in.weight` is of IN00."""
    keymap = KeyMap(unet_rows(config))
    names = block_names(config)

    def block_of(name: str) -> str:
        theirs = keymap.links([name])[0].theirs
        return _numbered(theirs) or (names[-1] if theirs.startswith("out.") else names[0])

    return block_of


def _numbered(theirs: str) -> str:
    """The block of an original name; empty for what stands before and behind all blocks."""
    if theirs.startswith("middle_block."):
        return MIDDLE
    if found := _NUMBERED.match(theirs):
        return f"{'IN' if found[1] == 'input' else 'OUT'}{int(found[2]):02d}"
    return ""


def _way(name: str, ways: tuple[str, ...]) -> int:
    return next(place for place, way in enumerate(ways) if name.startswith(way))
