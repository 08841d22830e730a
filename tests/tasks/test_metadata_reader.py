"""One door for the settings of any picture: chunks, EXIF, NovelAI's and hidden texts."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from recipes import recipe
from safelight.errors import FileError
from safelight.tasks.metadata.novelai import in_a1111, read_novelai
from safelight.tasks.metadata.reader import read_settings
from safelight.tasks.metadata.reading import Notes
from safelight.tasks.metadata.stealth import stealth_text
from safelight.tasks.picture import Picture

INFOTEXT = "a cat\nSteps: 9, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 64x64, Version: v1.10.1"
COMMENT = {"steps": 28, "sampler": "k_euler_ancestral", "seed": 3, "scale": 11.0, "uc": "{{bad}}"}
GRAPH = {"3": {"class_type": "KSampler", "inputs": {"seed": 5, "steps": 9, "cfg": 7}},
         "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}}}  # fmt: skip
FOOOCUS = json.dumps({"prompt": "a cat", "base_model": "x", "seed": 5, "steps": 9})
INVOKE = json.dumps({"positive_prompt": "a cat", "seed": 5, "steps": 9})


def png(path: Path, **texts: str) -> Path:
    """A PNG file with text chunks; `sd_metadata` stands for `sd-metadata`."""
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key.replace("sd_", "sd-"), text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunks)
    return path


@pytest.mark.parametrize(
    ("texts", "source"),
    [
        ({"parameters": INFOTEXT}, "A1111"),
        ({"parameters": FOOOCUS, "fooocus_scheme": "fooocus"}, "Fooocus"),
        ({"prompt": json.dumps(GRAPH)}, "ComfyUI"),
        ({"prompt": json.dumps(GRAPH), "workflow": "broken"}, "ComfyUI"),
        ({"prompt": json.dumps(GRAPH), "parameters": INFOTEXT}, "ComfyUI"),
        ({"prompt": "broken", "parameters": INFOTEXT}, "A1111"),
        ({"parameters": json.dumps(GRAPH)}, "ComfyUI"),
        ({"invokeai_metadata": INVOKE}, "InvokeAI"),
        ({"sd_metadata": json.dumps({"image": {"prompt": "a cat", "seed": 5}})}, "InvokeAI"),
        ({"Dream": '"a cat" -S 5 -s 9'}, "InvokeAI"),
        ({"Comment": json.dumps({**COMMENT, "seed": 5}), "Description": "a cat"}, "NovelAI"),
    ],
)
def test_every_program_is_known_by_its_texts(
    tmp_path: Path, texts: dict[str, str], source: str
) -> None:
    found = read_settings(png(tmp_path / "a.png", **texts))
    assert found.source == source
    assert found.request is not None and found.request.seed == 5
    assert found.recipe is None
    assert set(found.texts) == {key.replace("sd_", "sd-") for key in texts}


def test_a_text_that_cannot_be_understood_becomes_a_note(tmp_path: Path) -> None:
    found = read_settings(png(tmp_path / "a.png", prompt="{broken", workflow="[]"))
    assert (found.source, found.request) == ("nothing", None)
    assert len(found.notes) == 2 and "JSON" in found.notes[0]


@pytest.mark.parametrize("texts", [{}, {"Comment": "Created with GIMP"}, {"parameters": "a cat"}])
def test_a_picture_without_settings_has_none(tmp_path: Path, texts: dict[str, str]) -> None:
    assert read_settings(png(tmp_path / "a.png", **texts)).request is None


def test_a_forged_recipe_falls_back_to_the_text(tmp_path: Path) -> None:
    found = read_settings(png(tmp_path / "a.png", safelight="{}", parameters=INFOTEXT))
    assert found.source == "A1111" and found.recipe is None
    assert any("recipe" in note for note in found.notes)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_comments_of_other_programs_are_read_from_exif(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + INFOTEXT.encode("utf-16-be")
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    found = read_settings(path)
    assert found.source == "A1111" and found.request is not None
    assert found.request.prompt == "a cat"


def test_our_own_recipe_is_preferred(tmp_path: Path) -> None:
    made = Picture(np.zeros((8, 8, 3), dtype=np.uint8), recipe())
    found = read_settings(made.save(tmp_path / "a.png"))
    assert found.recipe is not None and found.request == found.recipe.request
    assert found.model_hash == "6c" * 32


def test_a_missing_file_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileError):
        read_settings(tmp_path / "a.png")


# --- NovelAI ----------------------------------------------------------------------------------


def test_novelai_is_read() -> None:
    reading = read_novelai("1girl, {smile}", json.dumps(COMMENT))
    assert reading.request is not None
    assert reading.request.prompt == "1girl, (smile:1.05)"
    assert reading.request.negative_prompt == "(bad:1.103)"
    assert (reading.request.sampler, reading.request.ensd) == ("Euler a", 31337)
    assert (reading.request.clip_skip, reading.request.cfg_scale) == (2, 11)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("plain", "plain"),
        ("{a}", "(a:1.05)"),
        ("{{a}}", "(a:1.103)"),
        ("[a]", "(a:0.9524)"),
        ("{a [b] c}", "(a :1.05)b( c:1.05)"),
        ("x (y)", "x \\(y\\)"),
        ("{a", "{a"),
        ("a}", "a}"),
        ("{a]", "{a]"),
        ("{" * 1000, "{" * 1000),
    ],
)
def test_braces_become_weights(theirs: str, ours: str) -> None:
    assert in_a1111(theirs, Notes()) == ours


@given(st.text(alphabet="ab{}[]()\\ ", max_size=60))
def test_translation_keeps_the_words(prompt: str) -> None:
    plain = dict.fromkeys(map(ord, "{}[]()\\ :.0123456789"))
    assert in_a1111(prompt, Notes()).translate(plain) == prompt.translate(plain)


# --- hidden texts -----------------------------------------------------------------------------


def hidden(text: str, signature: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values (H, W, ...) whose lowest bits say the text, column by column."""
    data = text.encode()
    if signature.endswith("comp"):
        data = gzip.compress(data)
    whole = signature.encode() + (len(data) * 8).to_bytes(4, "big") + data
    bits = np.unpackbits(np.frombuffer(whole, dtype=np.uint8))
    values = np.full(int(np.prod(shape)), 254, dtype=np.uint8)
    values[: len(bits)] |= bits
    height, width, *channels = shape
    return values.reshape(width, height, *channels).swapaxes(0, 1).copy()


@pytest.mark.parametrize("signature", ["stealth_pnginfo", "stealth_pngcomp"])
def test_text_hidden_in_transparency_is_found(tmp_path: Path, signature: str) -> None:
    alpha = hidden(INFOTEXT, signature, (40, 64))
    picture = np.dstack([np.zeros((40, 64, 3), dtype=np.uint8), alpha])
    Image.fromarray(picture, "RGBA").save(tmp_path / "a.png")
    found = read_settings(tmp_path / "a.png")
    assert found.source == "A1111" and found.texts["parameters"] == INFOTEXT


@pytest.mark.parametrize("signature", ["stealth_rgbinfo", "stealth_rgbcomp"])
def test_text_hidden_in_colours_is_found(signature: str) -> None:
    assert stealth_text(hidden(INFOTEXT, signature, (40, 64, 3)), None) == INFOTEXT


def test_novelais_hidden_text_is_unwrapped(tmp_path: Path) -> None:
    text = json.dumps({"Description": "a cat", "Comment": json.dumps(COMMENT)})
    picture = hidden(text, "stealth_rgbcomp", (40, 64, 3))
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert read_settings(tmp_path / "a.png").source == "NovelAI"


def test_nothing_hidden_is_nothing() -> None:
    assert stealth_text(np.zeros((1, 1, 3), dtype=np.uint8), None) is None
    assert stealth_text(np.zeros((64, 64, 3), dtype=np.uint8), np.ones((64, 64), np.uint8)) is None


@pytest.mark.parametrize(
    "forged",
    [
        b"stealth_rgbinfo" + b"\xff\xff\xff\xff",
        b"stealth_rgbcomp" + (64).to_bytes(4, "big") + b"nonsense",
        b"stealth_rgbcomp" + (8 * 5000).to_bytes(4, "big") + gzip.compress(b"x" * 5_000_000)[:5000],
    ],
)
def test_a_forged_hidden_text_is_refused(forged: bytes) -> None:
    bits = np.unpackbits(np.frombuffer(forged.ljust(5019, b"\0"), dtype=np.uint8))
    values = np.zeros(160 * 120 * 3, dtype=np.uint8)
    values[: len(bits)] = bits
    with pytest.raises(FileError, match="hidden text"):
        stealth_text(values.reshape(120, 160, 3).swapaxes(0, 1), None)
