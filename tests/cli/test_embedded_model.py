"""The embedded model as a user meets it: drawn with by default, named, listed, replayed."""

import json
import shutil
from pathlib import Path

import pytest

from cli_tiny import Cli, pixels, tiny_model
from own_model import model_of, small_family
from safelight.checkpoints.hashes import sha256
from safelight.checkpoints.save import save
from safelight.tasks.metadata.reader import read_settings

QUICK = ("--size", "32x32", "--steps", "2", "--seed", "5")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "emoji"
    save(model_of(small_family()), folder)
    return folder


@pytest.fixture
def carried(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "package" / "emoji"
    shutil.copytree(made, folder)
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: folder)
    return folder


@pytest.fixture
def drawn(carried: Path, safelight: Cli, place: Path) -> Path:
    ran = safelight("generate", "a red apple", *QUICK, "-o", "a.png")
    assert (ran.code, ran.err) == (0, "")
    return place / "a.png"


def replace_unet(carried: Path) -> None:
    """Another model ships under the same name."""
    shutil.rmtree(carried)
    save(model_of(small_family(), seed=1), carried)


def test_without_a_model_the_embedded_one_draws(drawn: Path, safelight: Cli, carried: Path) -> None:
    assert pixels(drawn).std() > 0
    for name in ("embedded", carried):
        assert safelight("generate", "a red apple", "-m", name, *QUICK, "-o", "b.png").code == 0
        assert (pixels("b.png") == pixels(drawn)).all()
        Path("b.png").unlink()


def test_its_own_settings_are_the_default(carried: Path, safelight: Cli) -> None:
    ran = safelight("generate", "a", "--seed", "5", "--json")
    (told,) = ran.json()
    assert (told["width"], told["steps"], told["sampler"]) == (128, 20, "DPM++ 2M")
    assert told["schedule"] == "karras"


def test_a_recipe_names_it_with_the_hashes_of_its_files(drawn: Path, carried: Path) -> None:
    recipe = read_settings(drawn).recipe
    assert recipe is not None and recipe.request.model == "embedded"
    weights = "diffusion_pytorch_model.safetensors"
    assert {f.role: f.sha256 for f in recipe.files} == {
        "unet": sha256(carried / "unet" / weights),
        "vae": sha256(carried / "vae" / weights),
        "text_encoder": sha256(carried / "text_encoder" / "model.safetensors"),
    }
    assert str(carried.parent) not in drawn.read_bytes().decode("latin-1")


def test_a_picture_is_drawn_again_by_that_name(drawn: Path, safelight: Cli, place: Path) -> None:
    ran = safelight("replay", drawn)
    assert (ran.code, ran.out, ran.err) == (0, "identical\n", "")
    assert safelight("generate", "--like", drawn, "-o", "like.png").code == 0
    assert (pixels("like.png") == pixels(drawn)).all()


def test_a_replaced_model_is_said_before_and_after(
    drawn: Path, safelight: Cli, carried: Path
) -> None:
    replace_unet(carried)
    ran = safelight("replay", drawn)
    assert ran.code == 1
    assert "warning: the embedded model was replaced since" in ran.err and "unet" in ran.err
    assert ran.out.startswith("different: the embedded model was replaced (safelight ")
    assert "the file for unet is another: was 'diffusion_pytorch_model" in ran.out


def test_the_old_model_may_be_given_or_lie_beside_the_picture(
    drawn: Path, safelight: Cli, carried: Path, made: Path, place: Path
) -> None:
    replace_unet(carried)
    assert safelight("replay", drawn, "--model", made).out == "identical\n"
    shutil.copytree(made, place / "embedded")
    assert safelight("replay", drawn).out == "identical\n", "the folder with the hashes is taken"


def test_another_autoencoder_does_not_make_it_another_model(
    carried: Path, safelight: Cli, place: Path
) -> None:
    save(model_of(small_family(), seed=2), place / "other")
    ran = safelight("generate", "a", "--vae", "other/vae", *QUICK, "-o", "a.png")
    assert ran.code == 0, ran.err
    ran = safelight("replay", "a.png", "--vae", "other/vae")
    assert (ran.out, ran.err) == ("identical\n", "")


def test_without_one_an_old_picture_says_what_it_needs(
    drawn: Path, safelight: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: None)
    ran = safelight("replay", drawn)
    assert ran.code == 1
    assert ran.error() == (
        "the picture was drawn with the model that Safelight carries, and this installation "
        "carries none; give it with --model PATH."
    )


def test_a_recipe_without_a_model_is_not_drawn_with_this_one(
    carried: Path, safelight: Cli, place: Path
) -> None:
    """A picture of the library's, whose model was in memory."""
    from safelight import Request, generate

    request = Request(prompt="a", width=32, height=32, steps=2, seed=1)
    (picture,) = generate(tiny_model(), request)
    picture.save(place / "a.png")
    ran = safelight("replay", "a.png")
    assert ran.code == 1 and "does not say which model drew it" in ran.error()


def test_a_sheet_of_it_is_replayed_cell_by_cell(carried: Path, safelight: Cli) -> None:
    args = ("grid", "a red apple", "-x", "prompt=apple,cat", "-y", "seed=1,2")
    assert safelight(*args, "--size", "32x32", "--steps", "2", "-o", "g.png").code == 0
    assert safelight("replay", "g.png", "--cell", "2,1").out == "identical\n"


def test_it_is_listed_and_inspected(carried: Path, safelight: Cli) -> None:
    ran = safelight("models", "--json")
    (row,) = json.loads(ran.out)
    assert (row["name"], row["layout"], row["place"]) == ("embedded", "folder", "this installation")
    assert row["what"] == "own" and row["fault"] is None
    ran = safelight("models")
    assert ran.code == 0 and "embedded" in ran.out and "this installation" in ran.out
    ran = safelight("inspect", "embedded")
    assert ran.code == 0 and "family: own" in ran.out
    assert safelight("prompt", "a red apple", "--model", "embedded").code == 0


def test_an_evaluation_without_a_model_is_of_it(carried: Path, safelight: Cli) -> None:
    ran = safelight("evaluate", "--cutouts", "nowhere.safetensors")
    assert ran.code == 2 and "carries no judge" in ran.error()
