"""How a picture is brought to the working size: A1111's three modes, with its rounding.

`just` stretches. `crop` covers the frame and cuts what sticks out. `fill` fits into the frame and
continues the picture's edge rows or columns into what is left. All resample with Lanczos.
"""

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from safelight.canvas.arrays import Mask, Pixels, Size, check_size, mask_image, mask_of, size_of
from safelight.errors import RequestError


def resized(pixels: Pixels, size: Size) -> Pixels:
    """The picture stretched to `size` (width, height), with Lanczos; A1111's "just resize"."""
    check_size(size)
    if size == size_of(pixels):
        return pixels.copy()
    return np.array(_lanczos(Image.fromarray(pixels), size))


def cropped(pixels: Pixels, size: Size) -> Pixels:
    """The middle of the picture at `size`, its aspect kept; A1111's "crop and resize"."""
    return np.array(_framed(Image.fromarray(pixels), _covering(size_of(pixels), size), size))


def filled(pixels: Pixels, size: Size) -> Pixels:
    """The whole picture within `size`, its edges continued; A1111's "resize and fill".

    The borders repeat the outermost row or column, sharpened a little by the one behind it, as
    A1111's resampling of an empty box does. Where the odd pixel would leave A1111's last row or
    column black, the border goes on to the end.
    """
    image = Image.fromarray(pixels)
    inner = _lanczos(image, _fitting(image.size, size))
    frame = Image.new(image.mode, size)
    left, top = (size[0] // 2 - inner.width // 2, size[1] // 2 - inner.height // 2)
    frame.paste(inner, (left, top))
    right, bottom = left + inner.width, top + inner.height
    if inner.height < size[1]:
        for start, end, row in ((0, top, 0), (bottom, size[1], inner.height)):
            _continue(frame, inner, (0, start, size[0], end), (0, row, inner.width, row))
    elif inner.width < size[0]:
        for start, end, column in ((0, left, 0), (right, size[0], inner.width)):
            _continue(frame, inner, (start, 0, end, size[1]), (column, 0, column, inner.height))
    return np.array(frame)


RESIZES: Mapping[str, Callable[[Pixels, Size], Pixels]] = {
    "just": resized,
    "crop": cropped,
    "fill": filled,
}


def resized_by(mode: str, pixels: Pixels, size: Size) -> Pixels:
    """The picture at `size` by the mode of that name in RESIZES. Raises RequestError if unknown."""
    _check_mode(mode)
    check_size(size)
    return RESIZES[mode](pixels, size)


def mask_resized_by(mode: str, mask: Mask, size: Size) -> Mask:
    """The mask as `resized_by` resizes its picture, so that both still fit, in 256 levels."""
    _check_mode(mode)
    check_size(size)
    grey = np.asarray(mask_image(mask))
    return mask_of(RESIZES[mode](grey, size))


def _check_mode(mode: str) -> None:
    if mode not in RESIZES:
        raise RequestError(f"the resize mode must be one of {', '.join(RESIZES)}; got {mode!r}.")


def _covering(own: Size, frame: Size) -> Size:
    """The size with the aspect of `own` that covers the frame."""
    wider = frame[0] / frame[1] > own[0] / own[1]
    return (
        frame[0] if wider else own[0] * frame[1] // own[1],
        own[1] * frame[0] // own[0] if wider else frame[1],
    )


def _fitting(own: Size, frame: Size) -> Size:
    """The size with the aspect of `own` that fits into the frame; at least 1 x 1."""
    narrower = frame[0] / frame[1] < own[0] / own[1]
    return (
        frame[0] if narrower else max(own[0] * frame[1] // own[1], 1),
        max(own[1] * frame[0] // own[0], 1) if narrower else frame[1],
    )


def _framed(image: Image.Image, inner: Size, frame: Size) -> Image.Image:
    made = Image.new(image.mode, frame)
    place = (frame[0] // 2 - inner[0] // 2, frame[1] // 2 - inner[1] // 2)
    made.paste(_lanczos(image, inner), place)
    return made


def _lanczos(image: Image.Image, size: Size) -> Image.Image:
    return image.resize(size, Image.Resampling.LANCZOS)


def _continue(
    frame: Image.Image,
    inner: Image.Image,
    place: tuple[int, int, int, int],
    line: tuple[int, int, int, int],
) -> None:
    """Fill a border of the frame from a box of the inner picture that has no width or height."""
    left, top, right, bottom = place
    if right > left and bottom > top:
        border = inner.resize((right - left, bottom - top), Image.Resampling.BICUBIC, box=line)
        frame.paste(border, (left, top))
