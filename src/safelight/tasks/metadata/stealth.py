"""Texts that some programs hide in the lowest bit of a PNG's transparency or colours.

Column by column from the left: a signature of 15 letters, the length in bits as 32 bits (big
endian), then UTF-8 text, as it is or gzipped. In colours, the bits of red, green and blue in turn.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from safelight.errors import FileError

LENGTH = 15  # of a signature, in bytes
HEADER = LENGTH + 4
TEXT_LIMIT = 4_000_000  # bytes, also after decompression


def stealth_text(pixels: NDArray[np.uint8], alpha: NDArray[np.uint8] | None) -> str | None:
    """The hidden text of a picture: pixels (H, W, 3), alpha (H, W). None if there is none.

    Raises FileError for a text that is announced but damaged or longer than `TEXT_LIMIT`.
    """
    hidden = None
    if alpha is not None:
        hidden = _hidden(alpha[:, :, None], b"stealth_pnginfo", b"stealth_pngcomp")
    if hidden is None:
        hidden = _hidden(pixels, b"stealth_rgbinfo", b"stealth_rgbcomp")
    return hidden


def _hidden(values: NDArray[np.uint8], plain: bytes, packed: bytes) -> str | None:
    """The text in (H, W, channels) values."""
    header = _bytes(values, HEADER)
    signature = header[:LENGTH]
    if signature not in (plain, packed):
        return None
    length = int.from_bytes(header[LENGTH:], "big") // 8
    if length > TEXT_LIMIT or (HEADER + length) * 8 > values.size:
        raise FileError(f"the hidden text announces {length} bytes, more than can be there.")
    data = _bytes(values, HEADER + length)[HEADER:]
    return (_unpacked(data) if signature == packed else data).decode("utf-8", "replace")


def _bytes(values: NDArray[np.uint8], count: int) -> bytes:
    """The first bytes of the lowest bits, column by column."""
    height, _, channels = values.shape
    columns = values[:, : -(-count * 8 // (height * channels))]
    bits = columns.transpose(1, 0, 2).reshape(-1)[: count * 8] & 1
    return np.packbits(bits).tobytes()


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unpacker.decompress(data, TEXT_LIMIT)
    except zlib.error:
        raise FileError("the hidden text cannot be unpacked.") from None
    if unpacker.unconsumed_tail:
        raise FileError(f"the hidden text has more than {TEXT_LIMIT} bytes.")
    return text
