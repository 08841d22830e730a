"""Peers on a tiny model: they do the same work as ours, and are found out if they do not."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from safelight.benchmarks import bench as benching
from safelight.benchmarks.bench import Asked, bench, checked, ground
from safelight.benchmarks.compare import Comparison, compared
from safelight.benchmarks.contenders import Contender, contenders
from safelight.benchmarks.report import Line
from safelight.benchmarks.task import Task

pytestmark = pytest.mark.slow
TINY = Asked(
    geometry="tiny", size=(64, 64), steps=2, rounds=2, threads=1, works=("step",), force=True
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny model and its exports are kept from test to test."""
    return tmp_path_factory.mktemp("bench")


def run(folder: Path, **changes: object) -> list[Line]:
    return list(bench(replace(TINY, folder=folder, **changes)))  # type: ignore[arg-type]


def by(lines: list[Line], kind: str) -> list[Line]:
    return [line for line in lines if line["kind"] == kind]


def test_diffusers_does_the_same_work_as_ours(folder: Path) -> None:
    works = ("step", "decode", "encode", "text", "picture", "overhead", "train")
    lines = run(folder, works=works, against=("diffusers",))
    assert not by(lines, "failed")
    theirs = {line["work"]: line for line in by(lines, "measured") if "apart" in line}
    assert set(theirs) == set(works)
    for work, line in theirs.items():
        assert line["library"] == "diffusers" and line["diffusers"], work
        assert float(line["apart"]) <= 1e-3, work  # type: ignore[arg-type]
    assert {line["work"] for line in by(lines, "ratio")} == set(works)


def test_fresh_processes_draw_the_same_picture(folder: Path) -> None:
    lines = run(folder, works=("start", "memory", "load"), against=("diffusers",))
    assert not by(lines, "failed") and len(by(lines, "ratio")) == 3
    theirs = [line for line in by(lines, "measured") if line["library"] == "diffusers"]
    start, memory_, load = (line.get("apart") for line in theirs)
    # the same picture but for a pixel that rounding moved by a level
    assert load is None and max(float(start), float(memory_)) <= 1e-4  # type: ignore[arg-type]
    memory = [line for line in by(lines, "measured") if line["work"] == "memory"]
    assert all(5e7 < float(line["median"]) < 5e9 for line in memory)  # type: ignore[arg-type]


def test_sdxl_is_told_its_sizes_by_both(folder: Path) -> None:
    lines = run(
        folder, geometry="tiny-xl", works=("step", "text", "picture"), against=("diffusers",)
    )
    theirs = [line for line in by(lines, "measured") if "apart" in line]
    assert not by(lines, "failed") and len(theirs) == 3
    assert all(float(line["apart"]) <= 1e-3 for line in theirs)  # type: ignore[arg-type]


def test_adapters_of_both_have_as_many_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benching, "LORA_FROM", 1)
    lines = run(folder, works=("train",), precisions=("bf16",), against=("diffusers",))
    assert not by(lines, "failed") and len(by(lines, "ratio")) == 1


def test_openvino_does_the_same_work_as_ours(folder: Path) -> None:
    works = ("step", "decode", "encode", "picture", "start", "memory")
    lines = run(folder, works=works, against=("openvino",), size=(128, 128), rounds=1)
    assert not by(lines, "failed"), by(lines, "failed")
    theirs = {line["work"]: line for line in by(lines, "measured") if "apart" in line}
    assert set(theirs) == set(works)
    assert float(theirs["step"]["apart"]) <= 1e-3  # type: ignore[arg-type]


def test_openvino_in_eight_bits_does_the_same_work_as_ours(folder: Path) -> None:
    asked = {
        "against": ("openvino-int8",),
        "precisions": ("bf16",),
        "size": (128, 128),
        "rounds": 1,
    }
    lines = run(folder, **asked)
    assert not by(lines, "failed"), by(lines, "failed")
    (theirs,) = (line for line in by(lines, "measured") if "apart" in line)
    assert theirs["contender"] == "openvino-int8 bf16"
    assert 1e-3 < float(theirs["apart"]) < 0.2  # type: ignore[arg-type]
    (export,) = folder.glob("openvino-int8-bf16-*")
    assert [part.name for part in export.iterdir()] == ["unet"]
    graph = (export / "unet" / "openvino_model.xml").read_text("utf-8")
    assert graph.count('type="FakeQuantize"') > 50


# -- who does other work is found out --------------------------------------------------------------


@pytest.fixture
def forged(folder: Path, tmp_path: Path) -> Path:
    """The model with one matrix of the U-Net made a fifth larger."""
    with ground(replace(TINY, folder=folder), (64, 64), 1, lambda text: None) as place:
        target = tmp_path / "forged"
        shutil.copytree(place.made.folder, target)
    path = target / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = "mid_block.attentions.0.proj_in.weight"
    assert weights[name].dtype == torch.float16
    weights[name] *= 1.2
    save_file(weights, path, metadata={"format": "pt"})
    return target


def beside(folder: Path, forged: Path, work: str) -> Comparison:
    """Ours on the model, and Diffusers on the forged one."""
    asked = replace(TINY, folder=folder, works=(work,), against=("diffusers",))
    checked(asked)
    with ground(asked, (64, 64), 1, lambda text: None) as place:

        def task(contender: Contender) -> Task:
            told = place.task(work, contender)
            return told if contender.peer is None else replace(told, model=str(forged))

        who = contenders(work, "fp32", ("eager",), ("diffusers",))
        return compared(who, task, rounds=2, hall=place.hall)


def test_one_changed_matrix_is_other_work(folder: Path, forged: Path) -> None:
    found = beside(folder, forged, "step")
    assert [one.contender.library for one in found.taken] == ["safelight"]
    assert "other work" in found.failed["diffusers fp32"] and not list(found.pairs())


def test_parts_that_were_not_changed_are_the_same_work(folder: Path, forged: Path) -> None:
    found = beside(folder, forged, "decode")
    assert not found.failed and len(list(found.pairs())) == 1


# -- the run itself --------------------------------------------------------------------------------


def test_a_given_file_is_laid_out_for_everybody(folder: Path, tmp_path: Path) -> None:
    from cli_tiny import tiny_model
    from safelight.checkpoints.save import save

    save(tiny_model(), tmp_path / "own.safetensors", "ldm")
    asked = replace(TINY, geometry=None, model=tmp_path / "own.safetensors", folder=tmp_path / "b")
    lines = list(bench(replace(asked, against=("diffusers",))))
    assert not by(lines, "failed") and by(lines, "ratio") and lines[1]["geometry"] == "given"


def test_inputs_follow_the_batch_and_guidance(folder: Path) -> None:
    asked = replace(TINY, folder=folder, batch=2, guidance=1.0)
    with ground(asked, (64, 64), 1, lambda text: None) as place:
        latents = np.load(place.inputs / "latents.npy")
        assert latents.shape[0] == 2 and not place.guided
    lines = run(folder, works=("step", "picture"), batch=2, guidance=1.0, against=("diffusers",))
    assert not by(lines, "failed") and len(by(lines, "ratio")) == 2


def test_a_temporary_folder_is_taken_away() -> None:
    with ground(TINY, (64, 64), 1, lambda text: None) as place:
        kept = place.made.work
        assert kept.is_dir()
    assert not kept.exists() and Path(sys.executable).exists()
