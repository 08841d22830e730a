"""A CLIP that guides, finds what a text names, and keeps the best of several."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tiny import Cli, pixels
from own_model import model_of, small_family, vision_of
from safelight.checkpoints.save import save

SMALL = ("--size", "64x64", "--steps", "3", "--seed", "5")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with both towers, every weight at random."""
    folder = tmp_path_factory.mktemp("clips") / "tiny-clip"
    save(model_of(small_family()), folder, image_encoder=vision_of())
    return folder


def test_clip_guidance_climbs_the_clips_similarity_and_replays(
    safelight: Cli, model: Path, clip: Path
) -> None:
    plain = ("generate", "a cat", "-m", model, *SMALL)
    assert safelight(*plain, "-o", "plain.png").code == 0
    for name, options in (
        ("through.png", ()),
        ("estimate.png", ("--clip-gradient", "estimate", "--clip-cut-outs", "2")),
        ("late.png", ("--clip-start", "0.5", "--clip-text", "a dog")),
    ):
        guided = (*plain, "--clip", clip, "--clip-guidance", "2", *options, "-o", name)
        ran = safelight(*guided)
        assert ran.code == 0, ran.err
        assert "CLIP guidance seconds" in ran.out
        assert not np.array_equal(pixels(name), pixels("plain.png")), name
        assert safelight("replay", name, "-m", model, "--file", f"clip={clip}").out == "identical\n"


def test_clip_guidance_of_weight_0_is_none_bit_for_bit(
    safelight: Cli, model: Path, clip: Path
) -> None:
    plain = ("generate", "a cat", "-m", model, *SMALL)
    assert safelight(*plain, "-o", "plain.png").code == 0
    assert safelight(*plain, "--clip", clip, "--clip-guidance", "0", "-o", "a.png").code == 0
    assert np.array_equal(pixels("a.png"), pixels("plain.png"))


def test_pictures_of_a_guided_batch_are_those_made_alone(
    safelight: Cli, model: Path, clip: Path
) -> None:
    guided = ("generate", "a cat", "-m", model, "--clip", clip, "--clip-guidance", "2")
    many = ("--size", "64x64", "--steps", "2", "--seed", "5", "--count", "3", "-o", "many")
    assert safelight(*guided, *many).code == 0
    alone = ("--size", "64x64", "--steps", "2", "--seed", "7", "-o", "alone.png")
    assert safelight(*guided, *alone).code == 0
    assert np.array_equal(pixels("many/7-a-cat.png"), pixels("alone.png"))


def test_the_best_of_several_is_one_of_them_with_its_score(
    safelight: Cli, model: Path, clip: Path
) -> None:
    several = ("generate", "a cat", "-m", model, *SMALL, "--count", "4", "-o", "all", "--json")
    drawn = safelight(*several).json()
    scores = safelight("score", *[d["path"] for d in drawn], "a cat", "--clip", clip, "--json")
    cosines = [row["scores"][0]["cosine"] for row in scores.json()]
    best = drawn[cosines.index(max(cosines))]
    ran = safelight(
        "generate", "a cat", "-m", model, *SMALL, "--best-of", "4", "--clip", clip,
        "-o", "best.png", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    (kept,) = ran.json()
    assert kept["pixels_sha256"] == best["pixels_sha256"] and kept["seed"] == best["seed"]
    assert kept["figures"]["CLIP rank"] == 1 and kept["figures"]["CLIP candidates"] == 4
    assert safelight("replay", "best.png", "-m", model).out == "identical\n"


def test_the_best_of_each_has_seeds_of_its_own(safelight: Cli, model: Path, clip: Path) -> None:
    ran = safelight(
        "generate", "a cat", "-m", model, *SMALL, "--best-of", "2", "--count", "2", "--clip", clip,
        "-o", "out", "--json",
    )  # fmt: skip
    first, second = (told["seed"] for told in ran.json())
    assert first in (5, 6) and second in (7, 8)


def test_a_mask_by_text_keeps_the_rest_byte_for_byte_or_says_that_nothing_is_there(
    safelight: Cli, model: Path, clip: Path, place: Path
) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(photo).save(place / "photo.png")
    asked = ("edit", "photo.png", "a cat", "-m", model, "--steps", "2", "--seed", "5")
    found = []
    for number, words in enumerate(("the hat", "a dog", "water", "a red apple", "sky")):
        name = f"{number}.png"
        ran = safelight(*asked, "--mask-text", words, "--clip", clip, "-o", name)
        if ran.code == 0:
            changed = (pixels(name) != photo).any(axis=2)
            assert 0 < changed.sum() < changed.size
            where = ("--file", f"clip={clip}")
            assert safelight("replay", name, "-m", model, *where).out == "identical\n"
            found.append(words)
        else:
            assert "nothing in the picture looks like" in ran.error()
    assert found, "random weights find at least one of five words"


def test_without_a_clip_it_is_said_where_one_comes_from(
    safelight: Cli, model: Path, place: Path
) -> None:
    for options in (("--clip-guidance", "1"), ("--best-of", "2")):
        ran = safelight("generate", "a cat", "-m", model, *SMALL, *options, "-o", "out")
        assert "needs a CLIP that sees" in ran.error() or "--clip" in ran.error()
        assert not list(place.glob("out/*"))
