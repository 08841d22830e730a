"""The two kinds of array that a canvas is made of, and whether they fit each other."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safelight.errors import RequestError

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB
Mask = NDArray[np.float32]  # (H, W), 0 keep to 1 paint
Floats = NDArray[np.float32]

Size = tuple[int, int]  # width, height


def size_of(array: Pixels | Mask) -> Size:
    """Width and height of pixels (H, W, 3) or of a mask (H, W)."""
    return array.shape[1], array.shape[0]


def check_fit(mask: Mask, pixels: Pixels) -> None:
    """Raise RequestError if the mask has another size than the picture."""
    if mask.shape != pixels.shape[:2]:
        raise RequestError(
            "the mask must have the size of its picture; "
            f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels and the picture "
            f"{pixels.shape[1]} x {pixels.shape[0]}. Draw the mask on this picture."
        )


def check_size(size: Size) -> None:
    """Raise RequestError if a side is below one pixel."""
    if min(size) < 1:
        raise RequestError(f"a picture has at least 1 x 1 pixels; got {size[0]} x {size[1]}.")


def rounded(values: Floats) -> Pixels:
    """The nearest levels 0 to 255 of values, halves to even."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def mask_levels(mask: Mask) -> NDArray[np.uint8]:
    """A mask in the 256 levels of a file."""
    return rounded(mask * np.float32(255))


def mask_image(mask: Mask) -> Image.Image:
    """A mask as a grey Pillow image of 256 levels."""
    return Image.fromarray(mask_levels(mask))


def mask_of(levels: NDArray[np.uint8]) -> Mask:
    """The mask of levels (H, W) in 0 to 255."""
    return levels.astype(np.float32) / np.float32(255)


def scaled_plane(plane: Floats, size: Size, how: Image.Resampling) -> Floats:
    """One float plane (H, W) at another size."""
    if size == size_of(plane):
        return plane
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image.resize(size, how), np.float32)


def scaled(values: Floats, size: Size, how: Image.Resampling) -> Floats:
    """Float planes (H, W) or (H, W, C) at another size, unrounded."""
    if values.ndim == 2:
        return scaled_plane(values, size, how)
    planes = [scaled_plane(values[..., c], size, how) for c in range(values.shape[2])]
    return np.stack(planes, axis=-1)
