"""A folder of models in which some are made to do harm: the server lists, names and refuses them.

Scanning runs nothing, and the server starts, answers and draws with the sound model beside them.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from addons_tiny import write_lora
from hostile_files import HOSTILE, MARKER, labels, write_hostile
from safelight.server.registry import listed
from server_hostile import JOBS, TXT2IMG, Attack, Target, attacked

SOME = (
    ("code", "os-system"),
    ("code", "bare"),
    ("code", "legacy-data"),
    ("code", "torchscript"),
    ("sneaky", "tar"),
    ("sneaky", "two-pickles"),
    ("lies", "storage-10e12"),
    ("lies", "zip-cut"),
    ("forged", "length-beyond"),
    ("renamed", "renamed-zip"),
    ("renamed", "renamed-legacy"),
    ("others", "empty"),
    ("others", "web-page"),
    ("special", "fifo"),
    ("special", "endless"),
    ("special", "loop"),
    ("special", "dangling"),
)
SHELVES = ("Lora", "embeddings", "hypernetworks")


def filled(folder: Path, models: Path, which: tuple[tuple[str, str], ...]) -> Path:
    """A folder with a sound model and these files, some of them on shelves of add-ons as well."""
    folder.mkdir()
    shutil.copy(models / "one.safetensors", folder / "one.safetensors")
    for group, label in which:
        write_hostile(folder, group, label)
    for shelf in SHELVES:
        (folder / shelf).mkdir()
        for group, label in (("code", "os-system"), ("code", "bare"), ("special", "dangling")):
            write_hostile(folder / shelf, group, label)
    write_lora(folder / "Lora" / "sound.safetensors")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    return filled(tmp_path_factory.mktemp("hostile") / "models", models, SOME)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("server"), folder) as found:
        yield found


def ran(folder: Path) -> list[Path]:
    """Traces of code that was run."""
    return list(folder.rglob(MARKER))


def test_hostile_files_are_named_as_refused_and_run_nothing(target: Target, folder: Path) -> None:
    told = target.client.get("/api/models").json()
    assert "one" in [item["name"] for item in told["models"]]
    refused = {item["name"]: item["why"] for item in told["refused"]}
    names = {name.rpartition("/")[2].rpartition(".")[0] for name in refused}
    # a link that leads nowhere, or in a circle, is not there to be refused
    expected = {label for group, label in SOME if group != "special"}
    assert expected <= names, expected - names
    for why in refused.values():
        assert why and len(why) < 500 and str(folder) not in why and "Traceback" not in why
    assert not ran(folder)
    target.is_well(draws=True)


def test_none_of_them_can_be_asked_for(target: Target, folder: Path) -> None:
    for group, label in SOME:
        suffix = ".ckpt" if group in ("code", "lies") else ""
        for name in (label, f"{label}{suffix}"):
            target.refuses(Attack(label, JOBS, {"prompt": "a", "model": name}))
    for label in ("os-system", "bare", "dangling"):
        for tag in ("lora", "hypernet"):
            body = {"prompt": f"a <{tag}:{label}:1>", "steps": 1}
            assert target.refuses(Attack(label, TXT2IMG, body)).status_code in (404, 422)
        target.refuses(Attack(label, JOBS, {"prompt": "a", "embeddings": [{"file": label}]}))
        target.refuses(Attack(label, JOBS, {"prompt": "a", "controls": [{"net": label}]}))
        target.refuses(Attack(label, JOBS, {"prompt": "a", "vae": label}))
    assert not ran(folder)


def test_the_refusal_says_why(target: Target) -> None:
    answer = target.refuses(Attack("", JOBS, {"prompt": "a", "model": "os-system"}))
    assert "its file was refused" in answer.text


def test_every_list_is_free_of_them(target: Target) -> None:
    for shelf in ("vaes", "loras", "embeddings", "hypernetworks", "controls", "upscalers"):
        told = target.client.get(f"/api/{shelf}").json()[shelf]
        names = {item["name"] for item in told}
        assert not names & {label for _, label in SOME}, shelf
        if shelf == "loras":
            assert "sound" in names
    for path in ("/sdapi/v1/loras", "/sdapi/v1/sd-models", "/sdapi/v1/embeddings"):
        assert "os-system" not in target.client.get(path).text


@pytest.mark.slow
def test_a_file_that_turns_bad_later_is_refused_when_it_is_drawn_with(
    tmp_path_factory: pytest.TempPathFactory, models: Path
) -> None:
    folder = filled(tmp_path_factory.mktemp("turning") / "models", models, ())
    shutil.copy(models / "two.safetensors", folder / "two.safetensors")
    with attacked(tmp_path_factory.mktemp("server"), folder) as target:
        bad = HOSTILE["renamed"]["renamed-zip"](folder / MARKER)
        (folder / "two.safetensors").write_bytes(bad)
        (folder / "Lora" / "sound.safetensors").write_bytes(bad)
        for body in ({"prompt": "a <lora:sound:1>"}, {"override_settings": two()}):
            answer = target.send(Attack("", TXT2IMG, {"prompt": "a", "steps": 1} | body))
            assert 400 <= answer.status_code <= 500
            assert "internal" not in answer.text, answer.text
        target.client.post("/api/refresh")
        refused = json.dumps(target.client.get("/api/models").json()["refused"])
        assert "two" in refused and "sound" in refused
        assert not ran(folder)
        target.is_well(draws=True)


def two() -> dict[str, object]:
    return {"sd_model_checkpoint": "two"}


@pytest.mark.slow
def test_a_folder_of_all_of_them_is_listed_in_seconds(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = filled(tmp_path / "models", models, tuple(labels()))
    registry = listed([folder])
    names = {item.stem for item in registry.on("model")}
    assert "one" in names and not names & set(HOSTILE["code"])
    assert len(registry.refused) > 150
    assert not ran(folder)
