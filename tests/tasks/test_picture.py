"""A picture is written whole or not at all, carries its recipe, and is read back with bounds."""

import errno
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from recipes import recipe
from safelight.errors import FileError, NonFiniteError, OutputError, SafelightError
from safelight.tasks.metadata.infotext import infotext
from safelight.tasks.metadata.reader import read_settings
from safelight.tasks.picture import (
    Picture,
    file_stem,
    open_picture,
    pixel_distance,
    to_uint8,
)
from safelight.writing import write_whole

SUFFIXES = (".png", ".jpg", ".webp")


def picture(**changes: object) -> Picture:
    """A small picture of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    return Picture(pixels, recipe(**changes))


# --- levels -----------------------------------------------------------------------------------


def test_levels_are_rounded_to_the_nearest_and_clipped() -> None:
    steps = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1])
    images = steps.reshape(1, 1, 1, -1).expand(1, 3, 1, -1)
    # 0 lies at 127.5, a half, which goes to the even level
    assert to_uint8(images)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255, 1, 0]


def test_every_level_survives_decoding_and_rounding() -> None:
    levels = torch.arange(256, dtype=torch.float32)
    images = (levels / 255 * 2 - 1).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    pixels = to_uint8(images)
    assert pixels.shape == (2, 16, 16, 3) and pixels.dtype == np.uint8
    assert (pixels[1, ..., 2].reshape(-1) == np.arange(256)).all()


def test_half_precision_is_rounded_in_single() -> None:
    images = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)
    halved = images.to(torch.bfloat16)
    assert (to_uint8(halved) == to_uint8(halved.float())).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_picture_with_nan_is_an_error_not_black(bad: float) -> None:
    images = torch.zeros(1, 3, 2, 2)
    images[0, 1, 1, 0] = bad
    with pytest.raises(NonFiniteError):
        to_uint8(images)


def test_distance_counts_levels() -> None:
    a = np.zeros((2, 2, 3), dtype=np.uint8)
    b = a.copy()
    b[0, 0, 0], b[1, 1, 2] = 255, 1
    distance = pixel_distance(a, b)
    assert distance is not None
    assert (distance.largest, distance.mean, distance.changed) == (255, 256 / 12, 2 / 12)
    assert pixel_distance(a, a) == (0, 0.0, 0.0)
    assert pixel_distance(a, a[:1]) is None


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_settings_survive_every_format(tmp_path: Path, suffix: str) -> None:
    made = picture(prompt="zwei\nKätzchen, 猫, 🐈 (x:1.2)", negative_prompt="blurry, bad")
    path = made.save(tmp_path / f"a{suffix}")
    found = read_settings(path)
    assert found.recipe == made.recipe.without_folders()
    assert found.source == "Safelight" and found.notes == ()
    stored = found.texts.get("parameters", found.texts.get("UserComment"))
    assert stored == infotext(made.recipe.without_folders())


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_pixels_survive_lossless_formats(tmp_path: Path, suffix: str) -> None:
    made = picture()
    assert (open_picture(made.save(tmp_path / f"a{suffix}")).pixels == made.pixels).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_metadata_nothing_is_told(tmp_path: Path, suffix: str) -> None:
    path = picture(prompt="a secret cat").save(tmp_path / f"a{suffix}", metadata=False)
    assert b"secret" not in path.read_bytes() and "secret".encode("utf-16-be") not in (
        path.read_bytes()
    )
    assert read_settings(path).source == "nothing"
    assert not open_picture(path).texts


def test_folders_are_not_told(tmp_path: Path) -> None:
    path = picture(model="/home/ann/models/x.safetensors").save(tmp_path / "a.png")
    assert b"/home/ann" not in path.read_bytes()


def test_quality_changes_the_size_of_lossy_files() -> None:
    made = picture()
    for suffix in (".jpg", ".webp"):
        assert len(made.encoded(suffix, quality=20)) < len(made.encoded(suffix, quality=95))


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.exe"])
def test_another_suffix_is_refused_and_nothing_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"\.png"):
        picture().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quality", [0, 101])
def test_quality_has_bounds(quality: int) -> None:
    with pytest.raises(OutputError, match="quality"):
        picture().encoded(".jpg", quality=quality)


def test_texts_too_long_for_jpeg_are_an_error_with_a_remedy() -> None:
    with pytest.raises(OutputError, match="PNG"):
        picture(prompt="x" * 49_000).encoded(".jpg")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        picture().save(tmp_path / "nowhere" / "a.png")


def test_a_full_disk_leaves_the_old_file_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    made = picture()
    with pytest.raises(OutputError) as caught:
        made.save(path)
    message = str(caught.value)
    assert str(tmp_path) in message and str(len(made.encoded(".png"))) in message
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.png", b"x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("links", [True, False])
def test_a_taken_name_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:  # as on FAT

        def no_links(source: object, target: object) -> None:
            raise PermissionError(errno.EPERM, "no links")

        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "a.txt"
    write_whole(path, b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_whole(path, b"second", replace=False)
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_new_files_never_replace_one_another(tmp_path: Path) -> None:
    paths = [picture(prompt="A cat!").save_new(tmp_path) for _ in range(3)]
    assert [path.name for path in paths] == ["7-a-cat.png", "7-a-cat-2.png", "7-a-cat-3.png"]


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    path = picture().save(tmp_path / "a.png")
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    ("prompt", "stem"),
    [
        ("A Café, (red:1.2)!", "7-a-cafe-red-1-2"),
        ("../../etc/passwd", "7-etc-passwd"),
        ("猫", "7"),
        ("", "7"),
        ("x" * 200, "7"),
        ("a\nb\0c"[:3], "7-a-b"),
        ("con|aux?*<>", "7-con-aux"),
    ],
)
def test_names_are_safe_words(prompt: str, stem: str) -> None:
    assert file_stem(recipe(prompt=prompt)) == stem


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300))
def test_any_prompt_gives_a_short_safe_name(prompt: str) -> None:
    stem = file_stem(recipe(prompt=prompt))
    assert len(stem) <= 80 and stem.isascii() and stem.replace("-", "").isalnum()
    assert not stem.endswith("-") and stem.startswith("7")


# --- reading ----------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG file that announces a size, with chunks as given."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def webp(kind: bytes, body: bytes) -> bytes:
    """A WebP file of one chunk."""
    part = b"WEBP" + kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(part)) + part


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not a PNG"),
        (b"GIF89a\1\0\1\0\0\0\0;", "not a PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG"),
        (png(8193, 8192), "too large"),
        (png(2**31 - 1, 2**31 - 1), "too large"),
        (webp(b"VP8X", b"\x10\0\0\0" + b"\xff\x3f\0" * 2 + b"\0" * 8), "too large"),
        (webp(b"VP8L", b"\x2f" + b"\xff" * 9), "too large"),
        (webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + b"\xff\x3f" * 2 + b"\0" * 8), "too large"),
        (png(8, 8), "damaged"),
        (png(8, 8, chunk(b"IDAT", b"nonsense")), "damaged"),
    ],
)
def test_a_file_that_is_no_sound_picture_is_refused(tmp_path: Path, data: bytes, word: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(FileError, match=word) as caught:
        open_picture(path)
    assert "a.png" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_truncation_is_a_file_error_or_a_whole_picture(tmp_path: Path, suffix: str) -> None:
    made = picture()
    whole = made.encoded(suffix)
    path = tmp_path / "a"
    refused = 0
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        try:
            opened = open_picture(path)
        except FileError:
            refused += 1
        else:
            assert opened.pixels.shape == made.pixels.shape
    assert refused > 30


def test_text_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    bomb = zlib.compress(b"x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1))
    path = tmp_path / "a.png"
    path.write_bytes(png(8, 8, chunk(b"zTXt", b"parameters\0\0" + bomb)))
    with pytest.raises(FileError):
        open_picture(path)


def test_texts_together_are_bounded(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    for number in range(5):
        texts.add_text(f"key {number}", "x" * 1_000_000)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=texts)
    with pytest.raises(FileError, match="characters of text"):
        open_picture(tmp_path / "a.png")


def test_what_is_not_a_file_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no file"):
        open_picture(tmp_path / "missing.png")
    with pytest.raises(FileError, match=r"not a file|folder"):
        open_picture(tmp_path)
    with pytest.raises(FileError):
        open_picture("a\0b.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FileError, match="not a file"):
        open_picture(tmp_path / "pipe.png")


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "1", "I;16"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 2)).save(tmp_path / "a.png")
    opened = open_picture(tmp_path / "a.png")
    assert opened.pixels.shape == (2, 4, 3) and opened.pixels.dtype == np.uint8
    assert (opened.alpha is not None) == (mode in ("LA", "RGBA"))


@pytest.mark.parametrize("order", ["be", "le"])
def test_both_orders_of_utf16_comments_are_read(tmp_path: Path, order: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a cat\nSteps: 2".encode(f"utf-16-{order}")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert open_picture(tmp_path / "a.jpg").texts["UserComment"] == "a cat\nSteps: 2"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from(SUFFIXES))
def test_whatever_a_file_holds_only_our_errors_come_back(
    tmp_path: Path, data: st.DataObject, suffix: str
) -> None:
    whole = bytearray(FILES[suffix])
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a"
    path.write_bytes(whole)
    message = ""
    try:
        read_settings(path)
    except SafelightError as error:
        message = str(error)
    assert "\n" not in message


FILES = {suffix: picture().encoded(suffix) for suffix in SUFFIXES}
