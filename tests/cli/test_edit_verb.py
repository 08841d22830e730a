"""`safelight edit`: results beside the picture they were drawn on, replayed, and refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tiny import Cli, pixels

STEPS = ("--steps", "2", "--seed", "5")
PHOTO = np.random.default_rng(0).integers(0, 256, (61, 75, 3), dtype=np.uint8)


@pytest.fixture
def photo(place: Path) -> Path:
    """photo.png and, for it, mask.png."""
    Image.fromarray(PHOTO).save(place / "photo.png")
    mask = np.zeros(PHOTO.shape[:2], np.uint8)
    mask[16:48, 24:60] = 255
    Image.fromarray(mask).save(place / "mask.png")
    return place / "photo.png"


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--strength", "0.4", "--strength-rule", "comfy", "--colour-correction"),
        ("--size", "64x32", "--resize", "crop"),
        ("--size", "64x64", "--resize", "latent"),
        ("--loops", "2", "--last-strength", "0.3"),
        ("--mask", "mask.png"),
        ("--mask", "mask.png", "--mask-invert", "--mask-content", "fill", "--mask-soft"),
        ("--mask", "mask.png", "--mask-area", "masked", "--size", "64x64"),
        ("--extend", "left=10,bottom=8", "--left-prompt", "a hat"),
        ("--extend", "right=64", "--size", "64x64", "--extend-fill", "mirror"),
    ],
)
def test_an_edited_picture_is_drawn_again_identically(
    safelight: Cli, model: Path, photo: Path, options: tuple[str, ...]
) -> None:
    ran = safelight("edit", photo, "a cat", "-m", model, *STEPS, *options, "-o", "a.png")
    assert ran.code == 0, ran.err
    assert safelight("replay", "a.png", "-m", model).out == "identical\n"


def test_pixels_outside_the_mask_stay_and_the_seam_is_told(
    safelight: Cli, model: Path, photo: Path
) -> None:
    asked = ("edit", photo, "a cat", "-m", model, *STEPS, "--mask", "mask.png", "-o", "a.png")
    ran = safelight(*asked, "--json")
    assert ran.code == 0, ran.err
    kept = pixels("mask.png")[..., 0] == 0
    assert np.array_equal(pixels("a.png")[kept], PHOTO[kept])
    (told,) = ran.json()
    assert (told["width"], told["height"]) == (75, 61)
    assert told["figures"]["seam"] > 0
    assert "  seam " in safelight(*asked[:-1], "b.png").out


def test_a_transparent_part_can_be_the_mask(safelight: Cli, model: Path, place: Path) -> None:
    alpha = np.full(PHOTO.shape[:2], 255, np.uint8)
    alpha[20:40, 20:40] = 0
    Image.fromarray(np.dstack([PHOTO, alpha])).save("cut.png")
    asked = ("edit", "cut.png", "a cat", "-m", model, *STEPS, "-o", "a.png")
    ran = safelight(*asked, "--mask-alpha")
    assert ran.code == 0, ran.err
    assert np.array_equal(pixels("a.png")[alpha > 0], PHOTO[alpha > 0])
    assert "transparent in places" in safelight(*asked[:-1], "b.png").err


def test_replay_finds_the_picture_by_its_pixels_and_says_what_else_it_found(
    safelight: Cli, model: Path, photo: Path, place: Path
) -> None:
    assert safelight("edit", photo, "a", "-m", model, *STEPS, "-o", "a.png").code == 0
    assert "photo.png" in (place / "a.png").read_bytes().decode("latin-1")
    shutil.move(photo, place / "elsewhere.png")
    ran = safelight("replay", "a.png", "-m", model)
    assert ran.code == 1
    assert "drawn with the source 'photo.png'" in ran.err
    assert '--file "source=PATH"' in ran.err
    ran = safelight("replay", "a.png", "-m", model, "--file", "source=elsewhere.png")
    assert ran.out == "identical\n"
    other = PHOTO.copy()
    other[0, 0] ^= 255
    Image.fromarray(other).save("photo.png")
    ran = safelight("replay", "a.png", "-m", model)
    assert ran.code == 1
    assert "the file for source is another" in ran.err
    assert ran.out.startswith("different: the file for source is another")


def test_like_takes_the_picture_and_all_settings(safelight: Cli, model: Path, photo: Path) -> None:
    asked = ("edit", photo, "a cat", "-m", model, *STEPS, "--mask", "mask.png", "-o", "a.png")
    assert safelight(*asked).code == 0
    ran = safelight("edit", "--like", "a.png", "-m", model, "-o", "b.png")
    assert ran.code == 0, ran.err
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
    Image.fromarray(PHOTO[::-1].copy()).save("turned.png")
    ran = safelight("edit", "turned.png", "--like", "a.png", "-m", model, "-o", "c.png")
    assert ran.code == 0, ran.err
    kept = pixels("mask.png")[..., 0] == 0
    assert np.array_equal(pixels("c.png")[kept], PHOTO[::-1][kept])


def test_what_is_not_there_or_does_not_fit_is_one_line_and_nothing_is_drawn(
    safelight: Cli, model: Path, photo: Path, place: Path
) -> None:
    Image.fromarray(PHOTO[:20]).save("small.png")
    (place / "text.png").write_text("no picture")
    for args, said in (
        ((), "say what to draw on"),
        (("nowhere.png", "a"), "nowhere.png"),
        (("text.png", "a"), "text.png"),
        ((photo, "a", "--mask", "small.png"), "small.png has 75 x 20"),
        ((photo, "a", "--mask", "gone.png"), "gone.png"),
        ((photo, "a", "--mask-alpha"), "no transparency"),
        ((photo, "a", "--strength", "1.5"), "--strength must be"),
        ((photo, "a", "--strength-rule", "mine"), "--strength-rule"),
        ((photo, "a", "--extend", "up=3"), "extended by sides and pixels"),
        ((photo, "a", "--extend", "left=0"), "extend needs a side"),
        ((photo, "a", "--left-prompt", "b", "--extend", "right=8"), "does not grow there"),
        ((photo, "a", "--mask-text", "hat", "--mask", "mask.png"), "a picture or a text"),
        ((photo, "a", "--source", photo), "given twice"),
        ((photo, "a", "--control", "net.safetensors"), "net.safetensors"),
    ):
        ran = safelight("edit", *args, "-m", model, "-o", "out")
        assert ran.code in (1, 2), args
        assert said in ran.error(), (args, ran.err)
        assert not list(place.glob("out/*"))


def test_a_mask_without_a_picture_is_refused(safelight: Cli, model: Path, photo: Path) -> None:
    ran = safelight("generate", "a", "-m", model, "--mask", "mask.png")
    assert "needs a picture to work on" in ran.error()


def test_infotext_of_an_edited_picture_is_a1111s(safelight: Cli, model: Path, photo: Path) -> None:
    asked = ("edit", photo, "a cat", "-m", model, *STEPS, "--strength", "0.6", "-o", "a.png")
    assert safelight(*asked).code == 0
    with Image.open("a.png") as image:
        assert "Denoising strength: 0.6" in image.text["parameters"]
        recipe = json.loads(image.text["safelight"])
    assert recipe["request"]["source"]["picture"] == "photo.png"
    (source,) = [f for f in recipe["files"] if f["role"] == "source"]
    assert source["content"] == "pixels"
