"""Whatever the file, the pixels mean the same: colours, transparency, depth and orientation."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from safelight.errors import FileError
from safelight.training.pictures import cropped, decoded, to_tensor, upright_size
from source_files import png

RED = (255, 0, 0)


def file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()


def pixel(data: bytes, at: tuple[int, int] = (0, 0), **options: object) -> object:
    image = decoded(data, "x", **options)  # type: ignore[arg-type]
    assert image.mode == "RGB"
    return image.getpixel(at)


def test_half_transparent_red_over_white_is_pink_and_over_black_dark() -> None:
    data = file(Image.new("RGBA", (2, 2), (255, 0, 0, 128)))
    assert pixel(data) in [(255, 127, 127), (255, 128, 128)]
    assert pixel(data, background=(0, 0, 0)) in [(128, 0, 0), (127, 0, 0)]


def test_transparent_places_show_the_background_whatever_colour_they_hide() -> None:
    assert pixel(file(Image.new("RGBA", (2, 2), (9, 200, 30, 0)))) == (255, 255, 255)
    assert pixel(file(Image.new("LA", (2, 2), (9, 0))), background=(1, 2, 3)) == (1, 2, 3)


def palette(transparent: int | None = None) -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    return file(image, **({} if transparent is None else {"transparency": transparent}))


def test_a_palette_gives_its_colours_and_its_transparent_one_the_background() -> None:
    assert [pixel(palette(), (x, 0)) for x in (0, 1)] == [RED, (0, 0, 255)]
    assert [pixel(palette(1), (x, 0)) for x in (0, 1)] == [RED, (255, 255, 255)]


def test_one_colour_marked_transparent_shows_the_background() -> None:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), (0, 0, 255))
    data = file(image, transparency=(0, 0, 255))
    assert [pixel(data, (x, 0)) for x in (0, 1)] == [RED, (255, 255, 255)]


def sixteen(values: list[int], **options: object) -> bytes:
    return file(Image.fromarray(np.array([values], np.uint16)), **options)


def test_sixteen_bits_are_scaled_and_rounded_not_clipped() -> None:
    data = sixteen([0, 128, 129, 257, 32896, 65535])
    greys = [0, 0, 1, 1, 128, 255]
    assert [pixel(data, (x, 0)) for x in range(6)] == [(g, g, g) for g in greys]


def test_grey_one_bit_and_cmyk_become_rgb() -> None:
    assert pixel(file(Image.new("L", (2, 2), 77))) == (77, 77, 77)
    assert pixel(file(Image.new("1", (2, 2), 1))) == (255, 255, 255)
    cmyk = file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(np.array(pixel(cmyk)) - RED).max() <= 3


def test_red_is_first_and_not_blue() -> None:
    for kind in ("PNG", "BMP", "GIF"):
        assert pixel(file(Image.new("RGB", (2, 2), RED), kind)) == RED
    for kind in ("JPEG", "WEBP"):
        data = file(Image.new("RGB", (8, 8), RED), kind, quality=100)
        assert np.abs(np.array(pixel(data)) - RED).max() <= 4, kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "corner"),
    # which corner of the upright picture shows what the file has at its top left
    [(1, "tl"), (2, "tr"), (3, "br"), (4, "bl"), (5, "tl"), (6, "tr"), (7, "br"), (8, "bl")],
)
def test_pictures_are_turned_upright(kind: str, orientation: int, corner: str) -> None:
    image = Image.new("RGB", (32, 16))
    image.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file(image, kind, exif=exif, **({} if kind == "PNG" else {"quality": 100}))
    found = decoded(data, "x")
    assert found.size == upright_size(data, "x") == ((16, 32) if orientation > 4 else (32, 16))
    at = (3 if corner[1] == "l" else found.width - 4, 3 if corner[0] == "t" else found.height - 4)
    assert found.getpixel(at)[0] > 240  # type: ignore[index]
    assert sum(np.asarray(found)[..., 0].ravel() > 128) in range(48, 81)


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    data = file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixel(data) == RED


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[: len(data) // 2], "x.png is truncated or damaged"),
        (lambda data: b"", "x.png is not a PNG, JPEG, WEBP, BMP, GIF picture"),
        (lambda data: b"<svg/>", "x.png is not a PNG"),
        (lambda data: data[:60] + b"\0" * 200 + data[260:], "x.png is truncated or damaged"),
    ],
)
def test_a_broken_picture_is_named(spoil: Callable[[bytes], bytes], said: str) -> None:
    with pytest.raises(FileError, match=said):
        decoded(spoil(png((40, 40))), "x.png")


def webp_header(chunk: bytes, body: bytes) -> bytes:
    return b"RIFF" + (4 + 8 + 30).to_bytes(4, "little") + b"WEBP" + chunk + body.ljust(34, b"\0")


@pytest.mark.parametrize(
    "data",
    [
        png((20, 20)),
        file(Image.new("RGB", (20, 20)), "JPEG"),
        file(Image.new("RGB", (20, 20)), "WEBP"),
        file(Image.new("RGB", (20, 20)), "WEBP", lossless=True),
        file(Image.new("RGBA", (20, 20)), "WEBP"),
        webp_header(b"VP8X", b"\x0a\0\0\0\x10\0\0\0\xff\xff\xff\xff\xff\xff"),
    ],
)
def test_the_size_is_bounded_before_anything_is_decoded(data: bytes) -> None:
    with pytest.raises(FileError, match="at most 399 pixels are read"):
        decoded(data, "x", max_pixels=399)


def test_a_window_equals_resizing_all_and_cropping() -> None:
    image = decoded(png((61, 47), seed=3), "x")
    size, corner, window = (40, 31), (5, 3), (32, 24)
    whole = image.resize(size, Image.Resampling.LANCZOS)
    wanted = np.asarray(whole.crop((5, 3, 37, 27))).astype(int)
    found = cropped(image, size, corner, window)
    assert found.shape == (24, 32, 3) and np.abs(found - wanted).max() <= 1
    assert (cropped(image, size, corner, window, flip=True) == found[:, ::-1]).all()


def test_nothing_is_resampled_where_the_size_is_right() -> None:
    image = decoded(png((24, 16)), "x")
    assert (cropped(image, (24, 16), (0, 0), (24, 16)) == np.asarray(image)).all()
    part = cropped(image, (24, 16), (8, 0), (16, 16))
    assert (part == np.asarray(image)[:, 8:]).all()


def test_making_smaller_averages_instead_of_skipping() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    made = cropped(Image.fromarray(stripes), (16, 16), (0, 0), (16, 16))
    assert np.abs(made[:, 2:-2].astype(int) - 127.5).max() < 3


def test_tensors_are_rgb_from_minus_one_to_one() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = 255, 51
    made = to_tensor([pixels, pixels])
    assert made.shape == (2, 3, 4, 6) and made.dtype == torch.float32 and made.is_contiguous()
    assert made[1, :, 0, 0].tolist() == pytest.approx([1.0, -0.6, -1.0], abs=1e-7)
