"""Diffusers folders, GGUF files and configs made to do harm, among the models of a server.

Each is told with its reason or left out; who asks for it gets a 4xx with its name; nothing of it
runs, and the server draws with the sound models beside it.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cli_tiny import tiny_model
from hostile_files import HOSTILE, MARKER
from hostile_folders import FOLDERS, GGUF, LATE, NOWHERE, YAML, spoiled
from safelight.checkpoints.library import Description, Entry, described
from safelight.checkpoints.save import save
from safelight.server import registry
from safelight.server.registry import listed
from server_hostile import JOBS, TXT2IMG, WELL, Attack, Target, attacked, pixels_of

SOME = (
    "index-no-json",
    "index-endless",
    "class-escapes",
    "config-pipe",
    "number-huge",
    "channels-zero",
    "layers-huge",
    "depths-huge",
    "text-layers-huge",
    "times-huge",
    "weights-half",
    "weights-loop",
    "pickled-unet",
    "shard-above",
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "diffusers"
    save(tiny_model(0), folder, "diffusers")
    return folder


def filled(folder: Path, models: Path, sound: Path, labels: Iterable[str]) -> Path:
    """A folder with sound models of both layouts, and these beside them."""
    folder.mkdir()
    os.link(models / "one.safetensors", folder / "one.safetensors")
    shutil.copytree(sound, folder / "sound", copy_function=os.link)
    for label in labels:
        spoiled(sound, folder, label, folder / MARKER)
    for name, data in GGUF.items():
        (folder / f"{name}.gguf").write_bytes(data)
    (folder / "gguf-renamed.safetensors").write_bytes(GGUF["gguf-plain"])
    (folder / "gguf-pickle.gguf").write_bytes(HOSTILE["code"]["os-system"](folder / MARKER))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, models: Path, sound: Path) -> Path:
    return filled(tmp_path_factory.mktemp("broken") / "models", models, sound, SOME)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("server"), folder) as found:
        yield found


def is_named_and_refused(target: Target, folder: Path, labels: Iterable[str]) -> None:
    """Check what is told of each, and what who asks for it is told."""
    told = target.client.get("/api/models").json()
    names = {item["name"] for item in told["models"]}
    assert {"one", "sound"} <= names
    refused = {item["name"]: item["why"] for item in told["refused"]}
    for label in labels:
        assert (label in refused) == (label not in LATE | NOWHERE), label
        assert (label in names) == (label in LATE), label
        answer = target.refuses(Attack(label, TXT2IMG, {**WELL, **chosen(label)}))
        assert label in answer.text
        if label in refused:
            why = refused[label]
            assert why and len(why) < 500 and why.isprintable(), why
            assert str(folder) not in why and "Traceback" not in why
            assert "reading its headers failed" not in why, f"{label} was not foreseen"
            assert "its file was refused" in answer.text
    assert not (folder / MARKER).exists()


def chosen(name: str) -> dict[str, object]:
    """What a client of A1111 says to draw with another model."""
    return {"override_settings": {"sd_model_checkpoint": name}}


def test_a_broken_folder_is_refused_by_name_and_why(target: Target, folder: Path) -> None:
    is_named_and_refused(target, folder, SOME)
    target.is_well(draws=True)


def test_a_gguf_file_is_refused_by_name_and_why(target: Target, folder: Path) -> None:
    told = target.client.get("/api/models").json()
    refused = {item["name"]: item["why"] for item in told["refused"]}
    for label in GGUF:
        assert (
            refused[f"{label}.gguf"]
            == f"{label}.gguf is a GGUF file; expected .safetensors or .ckpt"
        )
        for name in (label, f"{label}.gguf"):
            answer = target.refuses(Attack(label, JOBS, {"prompt": "a", "model": name}))
            assert "is a GGUF file" in answer.text and label in answer.text
    assert "is a GGUF file" in refused["gguf-renamed.safetensors"]
    assert "asks to run" in refused["gguf-pickle.gguf"]
    assert not (folder / MARKER).exists()
    target.is_well(draws=True)


def test_the_sound_folder_beside_them_is_drawn_with(target: Target) -> None:
    """It has the weights of `one`, so its picture is that before the attacks."""
    answer = target.client.post(TXT2IMG, json={**WELL, **chosen("sound")})
    assert answer.status_code == 200, answer.text
    assert pixels_of(answer.json()["images"][0]) == target.before


@pytest.mark.slow
def test_every_broken_folder_is_refused_by_name_and_why(
    tmp_path_factory: pytest.TempPathFactory, models: Path, sound: Path
) -> None:
    labels = [label for label in FOLDERS if label not in SOME]
    folder = filled(tmp_path_factory.mktemp("every") / "models", models, sound, labels)
    with attacked(tmp_path_factory.mktemp("server"), folder) as target:
        is_named_and_refused(target, folder, labels)


@pytest.mark.slow
def test_a_config_beside_a_model_runs_nothing_and_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, models: Path
) -> None:
    folder = tmp_path_factory.mktemp("configs")
    for label in ("one", *YAML, "pipe", "endless"):
        os.link(models / "one.safetensors", folder / f"{label}.safetensors")
    for label, written in YAML.items():
        (folder / f"{label}.yaml").write_bytes(written(folder / MARKER))
    os.mkfifo(folder / "pipe.yaml")
    (folder / "endless.yaml").symlink_to("/dev/zero")
    with attacked(tmp_path_factory.mktemp("server"), folder) as target:
        names = [item["name"] for item in target.client.get("/api/models").json()["models"]]
        assert {"one", "pipe", "endless", *YAML} <= set(names)
        for label in (*YAML, "pipe", "endless"):
            answer = target.client.post(TXT2IMG, json={**WELL, **chosen(label)})
            assert answer.status_code == 200, f"{label}: {answer.text}"
            assert pixels_of(answer.json()["images"][0]) == target.before, label
            asked = Attack(label, JOBS, {"prompt": "a", "model": f"{label}.yaml"})
            assert label in target.refuses(asked).text
    assert not (folder / MARKER).exists()


def test_a_file_that_nobody_foresaw_does_not_end_the_list(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(models / "one.safetensors", tmp_path / "one.safetensors")
    (tmp_path / "odd.safetensors").write_bytes(b"odd")

    def failing(entry: Entry) -> Description:
        if entry.path.stem == "odd":
            raise ZeroDivisionError("nobody foresaw this")
        return described(entry)

    monkeypatch.setattr(registry, "described", failing)
    found = listed([tmp_path])
    assert "one" in {item.name for item in found.on("model")}
    (odd,) = (item for item in found.refused if item.name == "odd.safetensors")
    assert odd.why == "reading its headers failed (ZeroDivisionError)"
    assert json.dumps(odd.to_json())
