"""A picture to work on is what a viewer shows, or refused by name with a remedy."""

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from print_profile import print_profile
from safelight.errors import FileError, RequestError
from safelight.measures.colours import lab as lab_of
from safelight.tasks.picture_file import input_of, open_input, open_picture

Pixels = NDArray[np.uint8]


def noise(width: int = 12, height: int = 8, channels: int = 3) -> Pixels:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(width: int = 48, height: int = 32) -> Pixels:
    """A picture that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5, y * 7, 255 - x * 2 - y * 3], -1).clip(0, 255).astype(np.uint8)


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def display_p3() -> bytes:
    """An ICC profile with other primaries than sRGB: Adobe's wide green, same curve and white."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Swap the red and green primaries: every colour then has another one in sRGB
    return made.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ").replace(b"tXYZ", b"gXYZ")


def renamed(profile: bytes) -> bytes:
    """The same profile under a description without the word sRGB, in both spellings."""
    wide, plain = "sRGB".encode("utf-16-be"), "Test".encode("utf-16-be")
    return profile.replace(b"sRGB built-in", b"Test built-in").replace(wide, plain)


# --- as it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_an_ordinary_picture_is_given_as_it_is(tmp_path: Path, suffix: str) -> None:
    path, pixels = tmp_path / f"a{suffix}", noise()
    Image.fromarray(pixels).save(path, lossless=True)
    opened = open_input(path)
    assert (opened.pixels == pixels).all() and opened.alpha is None and opened.notes == ()
    assert opened.size == (12, 8) and opened.name == f"a{suffix}"
    assert opened.kind == suffix[1:].upper()
    assert opened.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (open_picture(path).pixels == opened.pixels).all()


def test_an_srgb_profile_changes_nothing_and_is_not_worth_a_note(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(noise()).save(tmp_path / "a.png", icc_profile=profile)
    opened = open_input(tmp_path / "a.png")
    assert (opened.pixels == noise()).all() and opened.notes == ()


# --- turned -----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    path, exif = tmp_path / f"a{suffix}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise()).save(path, exif=exif, lossless=True)
    opened = open_input(path)
    with Image.open(path) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert opened.pixels.shape == wanted.shape and (opened.pixels == wanted).all()
    assert any(f"orientation {orientation}" in note for note in opened.notes) == (orientation > 1)


def test_alpha_is_turned_with_its_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(channels=4)).save(tmp_path / "a.png", exif=exif)
    opened = open_input(tmp_path / "a.png")
    assert opened.alpha is not None
    assert (opened.alpha == np.rot90(noise(channels=4)[..., 3], -1)).all()


def test_an_orientation_that_is_none_is_left_aside(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.fromarray(noise()).save(tmp_path / "a.png", exif=exif)
    assert (open_input(tmp_path / "a.png").pixels == noise()).all()


# --- other depths -----------------------------------------------------------------------------


def test_sixteen_bit_grey_is_scaled_and_said(tmp_path: Path) -> None:
    levels = np.array([[0, 128, 129, 257 * 100, 65535, 300]], ">u2")
    (tmp_path / "a.png").write_bytes(png(6, 1, 16, 0, b"\0" + levels.tobytes()))
    opened = open_input(tmp_path / "a.png")
    assert opened.pixels[0, :, 0].tolist() == [0, 0, 1, 100, 255, 1]
    assert (opened.pixels == opened.pixels[..., :1]).all() and "16 bits" in opened.notes[0]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_colours_are_scaled_and_said(
    tmp_path: Path, colour: int, channels: int
) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (5, 7, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    (tmp_path / "a.png").write_bytes(png(7, 5, 16, colour, rows))
    opened = open_input(tmp_path / "a.png")
    wanted = values.astype(np.float64) / 257
    assert np.abs(opened.pixels - wanted[..., : 1 if channels == 2 else 3]).max() < 1
    assert (opened.alpha is not None) == (channels in (2, 4))
    if opened.alpha is not None:
        assert np.abs(opened.alpha - wanted[..., -1]).max() < 1
    assert any("16 bits" in note for note in opened.notes)


def test_eight_bits_in_sixteen_come_back_exactly(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(1, 256) * 257
    (tmp_path / "a.png").write_bytes(png(256, 1, 16, 0, b"\0" + levels.astype(">u2").tobytes()))
    assert open_input(tmp_path / "a.png").pixels[0, :, 0].tolist() == list(range(256))


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise()).convert(mode)
    image.save(tmp_path / "a.png")
    opened = open_input(tmp_path / "a.png")
    assert (opened.pixels == np.asarray(image.convert("RGB"))).all() and opened.alpha is None


# --- transparency -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_kept_apart_and_hides_no_colour(tmp_path: Path, mode: str) -> None:
    pixels = noise(channels=4)
    image = Image.fromarray(pixels).convert(mode)
    image.putalpha(Image.fromarray(pixels[..., 3]))
    image.save(tmp_path / "a.png")
    opened = open_input(tmp_path / "a.png")
    assert opened.alpha is not None and (opened.alpha == pixels[..., 3]).all()
    assert (opened.pixels == np.asarray(image.convert("RGB"))).all()


def test_palettes_with_transparency_are_read(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image = Image.frombytes("P", (3, 1), image.tobytes())
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128, 255]))
    opened = open_input(tmp_path / "a.png")
    assert opened.pixels[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert opened.alpha is not None and opened.alpha[0].tolist() == [0, 128, 255]


def test_a_colour_declared_transparent_is_transparent(tmp_path: Path) -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(4, 5, 6))
    opened = open_input(tmp_path / "a.png")
    assert opened.alpha is not None and opened.alpha.tolist() == [[255, 0]]
    grey = Image.fromarray(np.array([[300, 7]], np.uint16))
    grey.save(tmp_path / "b.png", transparency=300)
    deep = open_input(tmp_path / "b.png")
    assert deep.alpha is not None and deep.alpha.tolist() == [[0, 255]]


# --- colours ----------------------------------------------------------------------------------


def test_cmyk_without_a_profile_is_converted_plainly_and_said(tmp_path: Path) -> None:
    image = Image.fromarray(smooth()).convert("CMYK")
    image.save(tmp_path / "a.jpg", quality=98)
    opened = open_input(tmp_path / "a.jpg")
    assert np.abs(opened.pixels.astype(int) - smooth()).mean() < 3
    assert "CMYK" in opened.notes[0] and "approximate" in opened.notes[0]


def test_cmyk_is_converted_by_its_profile_and_said(tmp_path: Path) -> None:
    """On a press whose cyan ink prints green: only the profile knows."""

    def lab(c: int, m: int, y: int, k: int) -> tuple[float, float, float]:
        return (0, 0, 0) if k else (60, -50, 40) if c else (100, 0, 0)

    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    profile = print_profile(lab, "Green\nPress")
    image.save(tmp_path / "a.jpg", quality=98, icc_profile=profile)
    image.save(tmp_path / "b.jpg", quality=98)
    known, unknown = open_input(tmp_path / "a.jpg"), open_input(tmp_path / "b.jpg")
    wanted = np.array([60, -50, 40])
    assert np.abs(lab_of(known.pixels[8, 8]) - wanted).max() < 4
    assert np.abs(lab_of(unknown.pixels[8, 8]) - wanted).max() > 30
    assert known.notes == ("its CMYK colours were brought to sRGB by its profile (Green\\nPress).",)


def test_colours_are_brought_to_srgb_by_their_profile(tmp_path: Path) -> None:
    profile = renamed(display_p3())
    Image.fromarray(smooth()).save(tmp_path / "a.png", icc_profile=profile)
    opened = open_input(tmp_path / "a.png")
    # Red and green primaries are swapped: so are the two channels, up to rounding
    assert np.abs(opened.pixels.astype(int) - smooth()[..., [1, 0, 2]]).max() <= 2
    assert "brought to sRGB by its profile" in opened.notes[0]


@pytest.mark.parametrize("profile", [b"nonsense", b"\0" * 400])
def test_a_damaged_profile_is_left_aside_and_said(tmp_path: Path, profile: bytes) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.png", icc_profile=profile)
    opened = open_input(tmp_path / "a.png")
    assert (opened.pixels == noise()).all() and "left aside" in opened.notes[0]


def test_a_profile_for_other_colours_is_left_aside_and_said(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(smooth()).convert("CMYK").save(
        tmp_path / "a.jpg", quality=98, icc_profile=profile
    )
    opened = open_input(tmp_path / "a.jpg")
    assert "is for Lab" in opened.notes[0] and "approximate" in opened.notes[1]


# --- animations -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_of_an_animation_the_first_frame_is_taken_and_said(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(noise(20 + n, 16)[:, :20]) for n in range(3)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    opened = open_input(tmp_path / f"a{suffix}")
    assert (opened.pixels == np.asarray(frames[0])).all()
    assert opened.notes == ("it is an animation of 3 frames; the first was taken.",)


def test_an_animation_that_begins_blank_is_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (12, 8)), Image.fromarray(noise())]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(FileError, match=r"mask a\.png is an animation of 2 frames.* as a PNG"):
        open_input(tmp_path / "a.png", "mask")


def test_a_phones_jpeg_with_a_second_picture_is_a_jpeg(tmp_path: Path) -> None:
    first = Image.fromarray(smooth())
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[first.resize((8, 8))])
    opened = open_input(tmp_path / "a.jpg")
    assert opened.kind == "JPEG" and opened.size == (48, 32) and opened.notes == ()


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "JPEG2000", "AVIF"])
def test_other_kinds_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, kind)
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    named = "JPEG 2000" if kind == "JPEG2000" else kind
    with pytest.raises(FileError, match=rf"control picture a\.png .* but an? {named}; save it as"):
        open_input(tmp_path / "a.png", "control picture")


def test_bombs_and_ruins_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(8193, 8192, 8, 2, b""))
    with pytest.raises(FileError, match="too large"):
        open_input(path)
    path.write_bytes(png(8, 8, 8, 2, b"\0\1"))
    with pytest.raises(FileError, match=r"the mask a\.png is truncated or damaged"):
        open_input(path, "mask")
    with pytest.raises(FileError, match="no file"):
        open_input(tmp_path / "none.png")


SOURCES = {}
for _suffix in (".png", ".jpg", ".webp"):
    _buffer = io.BytesIO()
    _exif = Image.Exif()
    _exif[0x0112] = 6
    Image.fromarray(smooth(16, 12)).save(
        _buffer, {".jpg": "JPEG"}.get(_suffix, _suffix[1:].upper()), exif=_exif.tobytes(),
        icc_profile=display_p3(),
    )  # fmt: skip
    SOURCES[_suffix] = _buffer.getvalue()


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from(sorted(SOURCES)))
def test_whatever_a_file_holds_it_is_opened_or_a_file_error(
    tmp_path: Path, data: st.DataObject, suffix: str
) -> None:
    whole = bytearray(SOURCES[suffix])
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a"
    path.write_bytes(whole)
    said: tuple[str, ...]
    try:
        opened = open_input(path)
    except FileError as error:
        said = (str(error),)
    else:
        assert opened.pixels.dtype == np.uint8 and opened.pixels.shape[2] == 3
        said = opened.notes
    assert all("\n" not in words and len(words) < 500 for words in said)


# --- pixels in memory -------------------------------------------------------------------------


def test_pixels_in_memory_are_taken_with_their_alpha() -> None:
    pixels = noise(channels=4)
    made = input_of(pixels, "mine")
    assert (made.pixels == pixels[..., :3]).all() and made.alpha is not None
    assert (made.alpha == pixels[..., 3]).all() and made.kind == "pixels"
    pixels[:] = 0
    assert made.pixels.any() and made.alpha.any()  # a copy
    grey = input_of(noise()[..., 0], "grey")
    assert grey.pixels.shape == (8, 12, 3) and grey.alpha is None
    assert (grey.pixels == noise()[..., :1]).all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(pixels: NDArray[np.generic]) -> None:
    with pytest.raises(RequestError, match=r"the mask mine must be uint8 pixels"):
        input_of(pixels, "mine", "mask")  # type: ignore[arg-type]
