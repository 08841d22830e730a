"""The verdict on a picture drawn again: pixels decide, recipes explain, files come first."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recipes import MODEL, SOFTWARE, recipe
from safelight.checkpoints.hashes import sha256
from safelight.errors import FileError, ReplayError
from safelight.tasks.metadata.reader import Found
from safelight.tasks.picture import Picture
from safelight.tasks.recipe import Recipe, UsedFile, pixels_sha256
from safelight.tasks.replay import (
    THREAD_LIMIT,
    compared,
    compared_foreign,
    from_settings,
    located,
    runnable,
    threads_of,
    with_files,
)
from safelight.tasks.request import Request

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
OTHER = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No models of whoever runs the tests are found."""
    for name in ("SAFELIGHT_HOME", "SAFELIGHT_CACHE", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)


def of(pixels: np.ndarray, made: Recipe | None = None) -> Recipe:
    """The recipe of these pixels."""
    base = made or recipe()
    return base.replace(result=base.result.replace(pixels_sha256=pixels_sha256(pixels)))


def picture(pixels: np.ndarray, made: Recipe | None = None) -> Picture:
    return Picture(pixels, of(pixels, made))


def test_equal_pixels_are_identical_whatever_the_recipes_say() -> None:
    verdict = compared(of(PIXELS), PIXELS, picture(PIXELS, recipe(steps=99)))
    assert verdict.identical and str(verdict) == "identical"
    assert verdict.to_json() == {
        "identical": True,
        "reproduced": True,
        "first_difference": None,
        "distance": None,
    }


def test_a_file_is_named_before_a_setting_and_that_before_a_version() -> None:
    file = MODEL.replace(sha256="ab" * 32)
    software = SOFTWARE.replace(torch="9.9")
    now = recipe(steps=21)
    for changes, said in (
        ({"files": (file,), "software": software}, "the file for model is another"),
        ({"software": software}, "the setting steps was 20, is 21"),
    ):
        verdict = compared(of(PIXELS), PIXELS, picture(OTHER, now.replace(**changes)))
        assert not verdict.identical and not verdict.reproduced
        assert str(verdict.first_difference).startswith(said)
    verdict = compared(of(PIXELS), PIXELS, picture(OTHER, recipe().replace(software=software)))
    assert verdict.first_difference == "torch was '2.13.0', is '9.9'"


def test_another_name_or_place_of_the_same_file_is_no_difference() -> None:
    moved = recipe(model="/elsewhere/renamed.safetensors")
    moved = moved.replace(files=(MODEL.replace(name="renamed.safetensors"),))
    verdict = compared(of(PIXELS), PIXELS, picture(OTHER, moved))
    assert "the computation is not" in str(verdict.first_difference)


def test_a_batch_is_a_cause() -> None:
    verdict = compared(of(PIXELS, recipe(batch=4)), PIXELS, picture(OTHER))
    assert verdict.first_difference == "the setting batch was 4, is 1"


def test_the_distance_counts_levels_and_values() -> None:
    near = PIXELS.copy()
    near[0, 0, 0] ^= 1
    verdict = compared(of(near), near, picture(PIXELS, recipe(steps=21)))
    assert verdict.distance is not None
    assert verdict.distance.largest == 1 and verdict.distance.changed == 1 / PIXELS.size
    assert str(verdict).endswith("0.01 % of values differ")


def test_pixels_that_the_recipe_does_not_name_were_edited() -> None:
    verdict = compared(of(PIXELS), OTHER, picture(PIXELS))
    assert verdict.reproduced and not verdict.identical
    assert "edited, or saved with loss" in str(verdict.first_difference)
    verdict = compared(of(PIXELS), OTHER, picture(PIXELS), kind="JPEG")
    assert "JPEG keeps pixels with loss" in str(verdict.first_difference)
    both = compared(of(PIXELS), OTHER, picture(OTHER // 2, recipe(steps=21)))
    assert "steps" in str(both.first_difference) and "edited, or lossy" in str(
        both.first_difference
    )


def test_other_sizes_have_no_distance() -> None:
    verdict = compared(of(PIXELS), PIXELS, picture(OTHER[:32], recipe(height=32)))
    assert verdict.distance is None
    assert str(verdict) == "different: the setting height was 64, is 32"


def test_a_cell_that_is_shown_smaller_is_judged_by_its_hash() -> None:
    small = PIXELS[::2, ::2]
    assert compared(of(PIXELS), small, picture(PIXELS)).identical
    verdict = compared(of(PIXELS), small, picture(OTHER, recipe(steps=21)))
    assert verdict.first_difference == "the setting steps was 20, is 21"


def test_the_threads_of_a_recipe_are_used_and_given_back() -> None:
    before = torch.get_num_threads()
    wanted = recipe().replace(software=SOFTWARE.replace(threads=before + 3))
    with threads_of(wanted):
        assert torch.get_num_threads() == before + 3
    assert torch.get_num_threads() == before
    greedy = recipe().replace(software=SOFTWARE.replace(threads=THREAD_LIMIT + 1))
    for made in (greedy, None):
        with threads_of(made):
            assert torch.get_num_threads() == before


def test_a_device_that_is_not_here_becomes_the_best_there_is() -> None:
    assert runnable(Request(prompt="", device="cuda:77")).device == "auto"
    assert runnable(Request(prompt="", device="cpu")).device == "cpu"


def test_of_several_files_the_one_with_the_hash_is_taken(tmp_path: Path) -> None:
    for folder, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.safetensors").write_bytes(content)
    folders = [tmp_path / "a", tmp_path / "b"]
    wanted = folders[1] / "m.safetensors"
    assert located("model", "m.safetensors", sha256(wanted), folders) == wanted
    assert located("model", "m", sha256(wanted)[:10], folders) == wanted, "other programs' names"
    first = folders[0] / "m.safetensors"
    assert located("model", "m.safetensors", "00" * 32, folders) == first


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "nix"])
def test_a_file_that_is_nowhere_is_named_with_hash_and_remedy(name: str) -> None:
    with pytest.raises(ReplayError, match=r"sha256 6c6c6c6c6c6c\.\.\..*give it with --vae PATH"):
        located("vae", name, "6c" * 32, [Path()])


def test_a_recipe_finds_its_files_beside_the_picture(tmp_path: Path) -> None:
    (tmp_path / "m.ckpt").write_bytes(b"x")
    used = UsedFile(role="model", name="m.ckpt", sha256=sha256(tmp_path / "m.ckpt"), size=1)
    made = recipe(model="m.ckpt").replace(files=(used,))
    assert with_files(made, {}, [tmp_path]).model == str(tmp_path / "m.ckpt")
    assert with_files(made, {"model": Path("/other")}, [tmp_path]).model == "/other"


def test_another_programs_picture_needs_settings_and_a_model(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="carries no recipe and no settings"):
        from_settings(Path("p.png"), Found("nothing"), {}, [])
    with pytest.raises(ReplayError, match="does not say which model"):
        from_settings(Path("p.png"), Found("A1111", Request(prompt="")), {}, [])
    request = from_settings(
        Path("p.png"), Found("A1111", Request(prompt="", count=4)), {"model": Path("/m")}, []
    )
    assert (request.model, request.count) == ("/m", 1)


def test_another_programs_model_hash_is_compared() -> None:
    found = Found("A1111", Request(prompt=""), model_hash="0123456789")
    verdict = compared_foreign(found, PIXELS, picture(OTHER))
    assert str(verdict.first_difference).startswith("the file for model is another: A1111 names")
    for same in ("6c" * 5, "0x" + "6C" * 6, "short", None):
        found = Found("A1111", Request(prompt=""), model_hash=same)
        verdict = compared_foreign(found, PIXELS, picture(OTHER))
        assert "no full recipe" in str(verdict.first_difference)
    assert compared_foreign(found, PIXELS, picture(PIXELS)).identical
    smaller = compared_foreign(found, PIXELS[:8], picture(PIXELS))
    assert str(smaller).endswith("the sizes differ")
