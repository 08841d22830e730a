"""`safelight teach`: a few words become a config that can be run again, and a file of what came."""

import tomllib
from pathlib import Path

import pytest

import teaching_lab as lab
from safelight.checkpoints.adapter_load import load_adapter
from safelight.checkpoints.embedding_file import read_embedding
from safelight.checkpoints.load import load
from safelight.cli.main import run
from safelight.cli.teaching import base_of, machine
from safelight.training.config.lessons import LESSONS, PRESETS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab.write_model(tmp_path_factory.mktemp("models") / "own")


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return lab.furnished(tmp_path, model, monkeypatch)


def teach(*more: str) -> int:
    small = ("--size", "32", "--batch", "2", "--steps", "2", "--rank", "2")
    return run(["teach", "ball", "-m", "old", "--word", "<ball>", *small, *more])


def test_a_word_of_options_becomes_a_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert teach("--to", "run", "--name", "ball") == 0
    told = tomllib.loads(Path("run/teach.toml").read_text())
    assert told["recipe"] == "lora" and told["training"]["steps"] == 2
    assert told["data"]["captions"] == {"templates": ["{caption}"]}
    file = Path("run/model/ball.safetensors")
    assert load_adapter(file, load("old")).unmatched == ()
    said = capsys.readouterr().out
    assert f"wrote {file}" in said and "finished: 2 steps" in said


def test_the_config_runs_by_itself_and_gives_the_same_bytes(place: Path) -> None:
    assert teach("--to", "one", "--name", "ball") == 0
    assert teach("--to", "two", "--name", "ball", "--config-only") == 0
    assert not Path("two/model").exists()
    assert run(["train", "two/teach.toml"]) == 0
    files = [Path(f"{folder}/model/ball.safetensors").read_bytes() for folder in ("one", "two")]
    assert files[0] == files[1]


def test_the_same_words_go_on_and_others_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert teach("--to", "run", "--until", "0.001s") == 0
    capsys.readouterr()
    assert teach("--to", "run") == 0
    assert "finished: 2 steps" in capsys.readouterr().out
    assert teach("--to", "run", "--seed", "3") == 2
    assert "run/teach.toml was made of other options" in capsys.readouterr().err


def test_an_inversion_is_a_file_for_its_word(place: Path) -> None:
    assert teach("--kind", "inversion", "--vectors", "2", "--initial", "red", "--to", "run") == 0
    (file,) = Path("run/model").glob("*.safetensors")
    assert file.name == "ball.safetensors" and read_embedding(file).length == 2


def test_a_class_is_drawn_and_the_whole_may_learn(place: Path) -> None:
    assert teach("--kind", "full", "--class", "a ball", "--class-count", "1", "--to", "run") == 0
    assert load("run/model").family.label == load("old").family.label
    assert len(list(Path("run/class").rglob("*.png"))) == 1


@pytest.mark.parametrize("kind", LESSONS)
def test_every_kind_is_taught_to_the_model_that_the_package_carries(
    kind: str, place: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: model)
    small = ("--size", "32", "--batch", "1", "--steps", "1", "--to", "run", "--name", "ball")
    assert run(["teach", "ball", "--word", "<ball>", "--kind", kind, *small]) == 0
    (made,) = Path("run").glob("model" if kind == "full" else "model/ball.safetensors")
    if kind == "full":
        assert load(made).family.backbone == load(model).family.backbone
    elif kind != "inversion":
        assert load_adapter(made, load(model)).unmatched == ()


def test_a_check_leaves_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert teach("--check") == 0
    assert "the config is sound; nothing was trained" in capsys.readouterr().out
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--kind", "lorra"), "kind must be one of"),
        (("--preset", "2gb"), "preset must be one of"),
        (("--layout", "zip"), "--layout must be kohya or diffusers"),
        (("--masks", "nowhere"), "nowhere is not a folder of masks"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    place: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    assert teach(*more, "--to", "run") == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_pictures_that_are_not_there_and_models_unknown_are_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["teach", "nowhere", "--word", "x"]) == 2
    assert run(["teach", "ball", "-m", "nomodel", "--word", "x"]) == 2
    said = capsys.readouterr().err
    assert "nowhere does not exist" in said and "nomodel" in said


def test_facts_of_a_model_come_from_its_header(place: Path) -> None:
    base = base_of("old")
    model = load("old")
    assert base.weights == sum(p.numel() for p in model.network.unet.parameters())
    assert (base.size, base.multiple, base.towers) == (128, 16, 1)
    assert base.small and machine() in PRESETS
