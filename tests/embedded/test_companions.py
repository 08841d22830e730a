"""What goes with the embedded model is found by its name, and a recipe keeps that name."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from embedded_tiny import package, standing_in
from models_tiny import randomised
from own_model import model_of, small_family
from safelight.checkpoints.control_about import FILE, making_of, write_making
from safelight.checkpoints.control_save import save_control
from safelight.checkpoints.library import described, entries, find_model, places
from safelight.checkpoints.save import save
from safelight.checkpoints.shelves import find_addon
from safelight.cli.main import run
from safelight.embedded.carried import COMPANIONS, EDGES, FOLDER, NAMES, SPEED, companion
from safelight.errors import CheckpointError, FileError
from safelight.models.controlnet import controlnet_of
from safelight.preprocessors.making import Making
from safelight.tasks.controlling import settled_controls
from safelight.tasks.generate import generate
from safelight.tasks.loading import Models
from safelight.tasks.metadata.reader import read_settings
from safelight.tasks.recipe import Recipe
from safelight.tasks.replay import other_files
from safelight.tasks.request import Request

pytestmark = pytest.mark.slow

CANNY = Making("canny", {"low": 60, "high": 120})
SMALL = {"width": 64, "height": 64, "steps": 2, "seed": 3}


def write_edges(folder: Path, seed: int = 7, making: Making | None = CANNY) -> Path:
    """A ControlNet of random weights for the small model."""
    unet = model_of(small_family()).network.unet
    save_control(randomised(controlnet_of(unet, widths=(4, 4, 4, 4)), seed), folder)
    if making is not None:
        write_making(making, folder)
    return folder


def write_speed(path: Path, seed: int = 1) -> Path:
    """A LoRA of random weights for the small model's first layer."""
    width, channels = 16, 8
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True)
    name = "lora_unet_conv_in"
    tensors = {
        f"{name}.lora_down.weight": torch.randn(2, channels, 3, 3),
        f"{name}.lora_up.weight": torch.randn(width, 2, 1, 1),
        f"{name}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = package(tmp_path_factory)
    write_edges(folder / COMPANIONS[EDGES])
    write_speed(folder / COMPANIONS[SPEED])
    return folder


@pytest.fixture
def carried(emoji: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with both, and a folder to stand in with a photo."""
    standing_in(emoji, tmp_path, monkeypatch)
    values = np.zeros((64, 64, 3), np.uint8)
    values[16:48, 20:44] = (200, 40, 90)
    Image.fromarray(values).save("photo.png")
    return emoji


def drawn(net: str, **changes: object) -> Recipe:
    control = {"net": net, "picture": "photo.png", **changes}
    request = Request.parse({**SMALL, "prompt": "a", "controls": [control]})
    (picture,) = generate(Models().of(request), request)
    return picture.recipe


def test_a_name_is_the_end_of_its_path_for_that_is_what_a_recipe_keeps() -> None:
    assert {name: Path(path).stem for name, path in COMPANIONS.items()} == {
        name: name for name in COMPANIONS
    }
    assert len({*NAMES}) == len(COMPANIONS) + 1


def test_it_is_found_by_name_in_any_case(carried: Path) -> None:
    assert find_model(EDGES) == find_model(EDGES.title()) == carried / COMPANIONS[EDGES]
    assert find_model("embedded") == carried
    (entry,) = [one for one in entries(places()) if one.name == EDGES]
    told = described(entry)
    assert (told.what, told.fault, entry.place) == ("controlnet for own", None, "this installation")


def test_a_path_of_that_name_is_a_path(carried: Path) -> None:
    Path(EDGES).mkdir()
    assert find_model(EDGES) == Path(EDGES)


def test_where_it_is_not_carried_its_name_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert companion(EDGES) is None
    with pytest.raises(FileError, match=f"this installation carries no {EDGES}"):
        find_model(EDGES)


def test_a_model_without_it_is_an_error_before_anything_is_loaded(
    tmp_path: Path, carried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / FOLDER
    shutil.copytree(carried, alone, ignore=shutil.ignore_patterns("controls"))
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: alone)
    request = Request.parse({"prompt": "a", "controls": [{"net": EDGES, "picture": "photo.png"}]})
    with pytest.raises(FileError, match=f"this installation carries no {EDGES}"):
        Models().check(request)


@pytest.mark.parametrize("given", [EDGES, EDGES.upper(), "path"])
def test_its_maps_are_made_as_it_learned_them_and_the_recipe_says_how(
    carried: Path, given: str
) -> None:
    recipe = drawn(str(carried / COMPANIONS[EDGES]) if given == "path" else given)
    (control,) = recipe.without_folders().request.controls
    assert control.net.lower() == EDGES
    assert (control.preprocessor, control.options) == ("canny", {"low": 60, "high": 120})
    (file,) = [file for file in recipe.files if file.role == "control"]
    data = find_model(EDGES).joinpath(file.name).read_bytes()
    assert (file.sha256, file.size) == (hashlib.sha256(data).hexdigest(), len(data))


def test_what_is_asked_for_counts_and_other_networks_take_the_picture(carried: Path) -> None:
    def settled(net: str, **changes: object) -> tuple[object, ...]:
        control = {"net": net, "picture": "photo.png", **changes}
        (one,) = settled_controls(Request.parse({"prompt": "a", "controls": [control]})).controls
        return one.preprocessor, one.options, one.resolution

    write_edges(Path("silent"), making=None)
    assert settled(EDGES) == ("canny", {"low": 60, "high": 120}, None)
    assert settled(EDGES, preprocessor="none") == ("none", {}, None)
    assert settled(EDGES, options={"low": 9}) == ("canny", {"low": 9, "high": 120}, None)
    assert settled(EDGES, resolution=64) == ("canny", {"low": 60, "high": 120}, 64)
    assert settled("silent") == ("none", {}, None)


def test_making_is_read_beside_the_files_that_training_writes_and_no_others(tmp_path: Path) -> None:
    write_making(CANNY, tmp_path)
    assert making_of(tmp_path) == CANNY
    assert making_of(tmp_path / "controlnet.safetensors") == CANNY
    assert making_of(tmp_path / "another.safetensors") is None
    assert making_of(tmp_path / "nowhere") is None
    (tmp_path / FILE).write_text(json.dumps({"preprocessor": "cany"}))
    with pytest.raises(CheckpointError, match=r"control\.json: unknown preprocessor 'cany'"):
        making_of(tmp_path)


def test_a_finished_map_is_not_made_into_one_in_silence(carried: Path) -> None:
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[20, 10:50] = lines[40, 10:50] = 255
    Image.fromarray(lines).save("lines.png")
    said = "the picture looks like a finished map"
    assert any(said in w for w in drawn(EDGES, picture="lines.png").result.warnings)
    taken = drawn(EDGES, picture="lines.png", preprocessor="none")
    assert not any(said in w for w in (*taken.result.warnings, *drawn(EDGES).result.warnings))


def test_another_familys_model_is_refused_by_name(carried: Path) -> None:
    from cli_tiny import tiny_model

    save(tiny_model(), Path("other"))
    control = {"net": EDGES, "picture": "photo.png"}
    request = Request.parse({**SMALL, "prompt": "a", "model": "other", "controls": [control]})
    with pytest.raises(CheckpointError, match=rf"{EDGES} is a ControlNet for .* but the loaded"):
        list(generate(Models().of(request), request))


def test_a_picture_finds_it_again_on_another_machine(
    carried: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = ("--size", "64x64", "--steps", "2", "--seed", "3")
    control = f"{EDGES},picture=photo.png"
    assert run(["generate", "a", *size, "--control", control, "-o", "a.png"]) == 0
    recipe = read_settings(Path("a.png")).recipe
    assert recipe is not None and recipe.request.controls[0].net == EDGES
    moved = tmp_path / "there" / FOLDER
    shutil.copytree(carried, moved)
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: moved)
    capsys.readouterr()
    assert run(["replay", "a.png"]) == 0
    assert capsys.readouterr().out == "identical\n"


def test_a_replaced_one_is_named_before_and_after(
    carried: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = ("--size", "64x64", "--steps", "2", "--seed", "3")
    assert (
        run(["generate", "a", *size, "--control", f"{EDGES},picture=photo.png", "-o", "a.png"]) == 0
    )
    newer = tmp_path / "newer" / FOLDER
    shutil.copytree(carried, newer, ignore=shutil.ignore_patterns("controls"))
    write_edges(newer / COMPANIONS[EDGES], seed=8)
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: newer)
    capsys.readouterr()
    assert run(["replay", "a.png"]) != 0
    told = capsys.readouterr()
    assert told.out.startswith("different: the file for control is another")
    assert "the file for control is another: the picture names sha256" in told.err

    older = Path(EDGES)
    shutil.copytree(carried / COMPANIONS[EDGES], older)
    capsys.readouterr()
    assert run(["replay", "a.png"]) == 0, "the older one, beside the picture"


def test_a_folder_is_another_if_it_lacks_the_file(carried: Path) -> None:
    folder = str(find_model(EDGES))
    assert list(other_files({"control": folder}, {"control": "ab" * 32}))
    assert not list(other_files({"control": folder}, {}))


def test_weight_0_has_the_bits_of_no_control(carried: Path) -> None:
    request = Request.parse({**SMALL, "prompt": "a"})
    (plain,) = generate(Models().of(request), request)
    assert drawn(EDGES, scale=0.0).result.pixels_sha256 == plain.recipe.result.pixels_sha256
    assert drawn(EDGES).result.pixels_sha256 != plain.recipe.result.pixels_sha256


# -- the LoRA --------------------------------------------------------------------------------------


def test_the_lora_is_found_by_name_before_all_others_but_paths(carried: Path) -> None:
    write_speed(Path("loras") / f"{SPEED}.safetensors", seed=2)
    assert find_addon("lora", SPEED) == find_addon("lora", SPEED.upper()) == companion(SPEED)
    own = Path("loras") / f"{SPEED}.safetensors"
    assert find_addon("lora", str(own)) == own
    (entry,) = [one for one in entries(places()) if one.name == f"{SPEED}.safetensors"]
    assert described(entry).what == "lora for own"


def test_where_the_lora_is_not_carried_its_name_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=f"there is no LoRA called {SPEED}"):
        find_addon("lora", SPEED)


@pytest.mark.parametrize("prompt", ["a", f"a <lora:{SPEED}:1>"], ids=["option", "tag"])
def test_a_picture_with_the_lora_is_drawn_again_by_its_name(
    carried: Path, capsys: pytest.CaptureFixture[str], prompt: str
) -> None:
    given = [] if "<" in prompt else ["--lora", SPEED]
    size = ("--size", "64x64", "--steps", "2", "--seed", "3")
    assert run(["generate", prompt, *size, *given, "-o", "a.png"]) == 0
    assert run(["generate", "a", *size, "-o", "plain.png"]) == 0
    recipe = read_settings(Path("a.png")).recipe
    assert recipe is not None and recipe.file("lora") is not None
    assert Path(recipe.request.loras[0].file).stem == SPEED
    with Image.open("a.png") as one, Image.open("plain.png") as other:
        assert one.tobytes() != other.tobytes()
    capsys.readouterr()
    assert run(["replay", "a.png"]) == 0
    assert capsys.readouterr().out == "identical\n"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), True),
        (("--sampler", "lcm", "--steps", "4"), True),
        (("--sampler", "lcm", "--steps", "4", "--cfg", "1", "--schedule", "karras"), True),
        (("--sampler", "lcm", "--steps", "4", "--cfg", "1"), False),
        (("--sampler", "LCM", "--schedule", "lcm", "--steps", "4", "--cfg", "1"), False),
    ],
)
def test_it_says_what_it_was_made_for_unless_it_is_drawn_so(
    carried: Path, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...], said: bool
) -> None:
    steps = () if "--steps" in settings else ("--steps", "2")
    command = ["generate", "a", "--size", "64x64", "--seed", "3", "--lora", SPEED]
    assert run([*command, *steps, *settings, "-o", "a.png"]) == 0
    wanted = "it was made for --sampler lcm --steps 4 --cfg 1"
    assert (wanted in capsys.readouterr().err) == said
