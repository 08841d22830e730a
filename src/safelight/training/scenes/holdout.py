"""What is never trained on, so that it can test: rules on SHA-256 digests of the names.

A checksum such as CRC-32 would not do: it is linear, so two of its values over one name are
correlated, and a split by one would fix the other.
"""

import hashlib
from collections.abc import Iterable, Mapping

TENTH = 10  # one cell of so many is held out
COMBO_SHARE = 8  # one concept of so many loses a family
COMBO_FAMILIES = 4  # of the concepts that so many families draw


def digest(text: str) -> int:
    """The first eight bytes of the text's SHA-256 as a big-endian integer."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def background_held_out(hexcode: str, colour: str) -> bool:
    """Whether a concept is never shown on the background of this name in training."""
    return digest(f"bg:{hexcode}:{colour}") % TENTH == 0


def pair_held_out(one: str, other: str) -> bool:
    """Whether two concepts are never shown together in training, in whatever order."""
    return digest("pair:" + ":".join(sorted((one, other)))) % TENTH == 0


def recolour_held_out(hexcode: str, colour: str) -> bool:
    """Whether a concept is never recoloured so in training."""
    return digest(f"recolour:{hexcode}:{colour}") % TENTH == 0


def count_held_out(hexcode: str, count: int) -> bool:
    """Whether a concept is never shown so many times in training."""
    return digest(f"count:{hexcode}:{count}") % TENTH == 0


def held_out_families(families: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The family that each chosen concept loses to the split `heldout_combo`.

    `families` gives the families that draw each core concept, by its hexcode. Whole families are
    held out, not styles: styles of one family share a drawing and would give it away.
    """
    lost = {}
    for hexcode, drawn_by in families.items():
        names = sorted(set(drawn_by))
        if len(names) >= COMBO_FAMILIES and digest(f"combo:{hexcode}") % COMBO_SHARE == 0:
            lost[hexcode] = names[digest(f"family:{hexcode}") % len(names)]
    return lost
