"""A small ICC print profile made by hand: CMYK to Lab by a table of the sixteen full inks."""

import struct
from collections.abc import Callable

Lab = tuple[float, float, float]


def print_profile(lab: Callable[[int, int, int, int], Lab], name: str = "Test Press") -> bytes:
    """An ICC 2.4 output profile; `lab` gives the colour of full (1) or no (0) ink of each kind."""
    table = b"".join(
        bytes([round(lightness * 2.55), round(a + 128), round(b + 128)])
        for c in (0, 1)
        for m in (0, 1)
        for y in (0, 1)
        for k in (0, 1)
        for lightness, a, b in (lab(c, m, y, k),)
    )
    unity = bytes(range(256))
    one, none = struct.pack(">i", 65536), bytes(4)
    matrix = b"".join(one if n % 4 == 0 else none for n in range(9))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + unity * 4 + table + unity * 3
    text = name.encode() + b"\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)  # D50
    tags = {b"desc": described, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": white}
    tags |= {b"A2B0": lut, b"A2B1": lut}
    start = 128 + 4 + 12 * len(tags)
    entries, body = b"", b""
    for tag, value in tags.items():
        entries += tag + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    size = start + len(body)
    header = (
        struct.pack(">I4xI", size, 0x02400000)
        + b"prtrCMYKLab "
        + struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    )
    header += b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body
