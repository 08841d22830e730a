"""`safelight score` compares pictures with texts by any CLIP on disk."""

from pathlib import Path

import pytest
from PIL import Image

from cli_tiny import Cli
from own_model import model_of, small_family, vision_of
from safelight.checkpoints.save import save


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with both towers, every weight at random."""
    folder = tmp_path_factory.mktemp("clips") / "tiny-clip"
    save(model_of(small_family()), folder, image_encoder=vision_of())
    return folder


@pytest.fixture
def pictures(place: Path) -> list[Path]:
    paths = []
    for number, colour in enumerate(("red", "navy", "grey")):
        paths.append(place / f"{number} {colour}.png")
        Image.effect_noise((40, 50), 40 * number + 20).convert("RGB").save(paths[-1])
    return paths


def test_one_picture_and_one_text_give_a_cosine(
    safelight: Cli, clip: Path, pictures: list[Path]
) -> None:
    ran = safelight("score", pictures[0], "a red apple", "--clip", clip)
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines[0].split("  ")[-1].strip() == "a red apple"
    assert pictures[0].name in ran.lines[1] and -1 <= float(ran.lines[1].split()[-1]) <= 1


def test_several_texts_share_a_picture_and_several_pictures_make_a_table(
    safelight: Cli, clip: Path, pictures: list[Path]
) -> None:
    texts = ("a red apple", "a cat", "the sea")
    ran = safelight("score", *pictures, *texts, "--clip", clip)
    assert ran.code == 0 and len(ran.lines) == 4
    assert all(text in ran.lines[0] for text in texts)
    rows = safelight("score", *pictures, *texts, "--clip", clip, "--json").json()
    assert [Path(str(row["picture"])).name for row in rows] == [p.name for p in pictures]
    for row, line in zip(rows, ran.lines[1:], strict=True):
        assert [score["text"] for score in row["scores"]] == list(texts)
        assert abs(sum(score["share"] for score in row["scores"]) - 1) < 1e-5
        for score in row["scores"]:
            assert f"{score['cosine']:.4f} ({score['share']:.0%})" in line
        assert row["clip"] == "tiny-clip"


def test_the_order_of_texts_changes_no_number(
    safelight: Cli, clip: Path, pictures: list[Path]
) -> None:
    def cosines(*texts: str) -> dict[str, float]:
        ran = safelight("score", pictures[1], *texts, "--clip", clip, "--json")
        return {score["text"]: score["cosine"] for score in ran.json()[0]["scores"]}

    assert cosines("a cat", "the sea") == cosines("the sea", "a cat")


def test_what_is_missing_is_said(safelight: Cli, clip: Path, pictures: list[Path]) -> None:
    picture = pictures[0]
    for arguments, said in (
        ((picture, "a cat"), "carries no CLIP that could judge; give one with --clip"),
        ((picture, "--clip", clip), "give a text behind the pictures"),
        (("a cat", "a dog", "--clip", clip), "name a picture before the texts"),
        (("lost.png", "a cat", "--clip", clip), "there is no picture lost.png"),
        ((picture, "a cat", " ", "--clip", clip), "a text to compare with is empty"),
        ((picture, "a cat", "--clip", "nowhere"), "nowhere"),
        ((picture, "a cat", "--clip", clip / "unet"), "holds no whole CLIP"),
        ((picture, "a cat", "--clip", picture), "a picture, not weights"),
    ):
        ran = safelight("score", *arguments)
        assert ran.code == 2 and said in ran.error(), arguments


def test_a_text_that_is_cut_and_a_picture_that_is_turned_are_told(
    safelight: Cli, clip: Path, place: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40), "red").save(place / "turned.jpg", exif=exif)
    ran = safelight("score", "turned.jpg", "ab " * 100, "--clip", clip)
    assert ran.code == 0
    assert "tokens were not read" in ran.err


def test_the_embedded_clip_judges_if_there_is_one(
    safelight: Cli, clip: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safelight.cli import scoring

    monkeypatch.setattr(scoring, "embedded_folder", lambda: clip)
    ran = safelight("score", pictures[0], "a cat", "--json")
    assert ran.code == 0 and ran.json()[0]["clip"] == "tiny-clip"
