"""Where the embedded model lies, and how it is found by its name."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from own_model import model_of, small_family
from safelight.checkpoints.library import entries, find_model, places
from safelight.checkpoints.load import load
from safelight.checkpoints.save import save
from safelight.embedded.carried import FOLDER, NAME, embedded_folder, is_embedded, shelf
from safelight.errors import FileError, RequestError
from safelight.tasks.loading import Models
from safelight.tasks.request import Request
from safelight.tasks.stable_name import stable_name


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / FOLDER
    save(model_of(small_family()), folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SAFELIGHT_HOME", "SAFELIGHT_CACHE", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def carried(emoji: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: emoji)
    return emoji


def test_the_model_belongs_beside_the_code_of_its_room() -> None:
    place = shelf()
    assert place is not None and place.name == FOLDER
    assert place.parent == Path(str(files("safelight.embedded")))


def test_the_wheel_holds_the_whole_package_data_too() -> None:
    """Hatch packs what lies in the package's folder unless it is told or git ignores it."""
    root = Path(__file__).parent.parent.parent
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert wheel["targets"]["wheel"] == {"packages": ["src/safelight"]}
    assert not {"exclude", "only-include"} & wheel.keys()
    ignored = (root / ".gitignore").read_text().split()
    assert not any("embedded" in line or "safetensors" in line for line in ignored)


def test_a_folder_without_its_index_is_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: tmp_path)
    assert embedded_folder() is None and not is_embedded(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    assert embedded_folder() == tmp_path
    assert is_embedded(tmp_path) and is_embedded(tmp_path / "unet" / "x.safetensors")
    assert is_embedded(tmp_path / "unet" / ".."), "however the path is written"
    assert not is_embedded(tmp_path.parent)


def test_it_is_found_by_name_before_all_others(carried: Path, home: Path) -> None:
    (home / "SAFELIGHT_HOME" / "models").mkdir(parents=True)
    (home / "SAFELIGHT_HOME" / "models" / "embedded.safetensors").write_bytes(b"x")
    assert find_model("embedded") == find_model("Embedded") == carried
    first = next(entries(places()))
    assert (first.name, first.layout, first.place) == (NAME, "folder", "this installation")
    with pytest.raises(FileError, match="did you mean embedded"):
        find_model("embeded")


def test_a_path_of_that_name_is_a_path(carried: Path, home: Path) -> None:
    (home / "embedded").mkdir()
    assert find_model("embedded") == Path("embedded")


def test_where_none_is_carried_its_name_says_so(home: Path) -> None:
    assert embedded_folder() is None
    with pytest.raises(FileError, match="this installation carries no embedded model"):
        find_model("embedded")
    with pytest.raises(RequestError, match="no model was given, and Safelight does not carry one"):
        Models().check(Request(prompt=""))
    assert [place.label for place in places()] == ["Safelight", "Hugging Face"]


def test_a_request_without_a_model_gets_it(carried: Path) -> None:
    models = Models()
    assert models.path(Request(prompt="")) == carried
    model = models.of(Request(prompt="", dtype="fp32"))
    assert stable_name(model) == NAME
    assert models.of(Request(prompt="other", model="embedded", dtype="fp32")) is model


def test_another_model_has_no_stable_name(carried: Path, home: Path) -> None:
    save(model_of(small_family(), seed=1), home / "other")
    assert stable_name(load(home / "other")) is None
    assert stable_name(model_of(small_family())) is None
    assert stable_name(load(home / "other", vae=carried / "vae")) is None
    assert stable_name(load(carried, vae=home / "other" / "vae")) == NAME
