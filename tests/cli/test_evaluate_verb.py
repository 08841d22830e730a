"""`safelight evaluate` as a user runs it, on a small model and a judge that knows nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cli_tiny import Cli, files, pixels, tiny_model
from models_tiny import randomised
from safelight.checkpoints.evaluator_folder import write_evaluator
from safelight.checkpoints.save import save
from safelight.checkpoints.vision_folder import save_clip_vision
from safelight.model import Model
from safelight.models.clip import ClipText, ClipVision, ClipVisionConfig
from safelight.models.evaluator import EvaluatorConfig, Labels
from safelight.text.conditioner import Conditioner
from safelight.training.scenes.cutouts import save_cutouts
from scenes_tiny import STYLES, THINGS, cutouts, write_shard

SMALL = ("--side", 32, "--steps", 1, "--batch", 8)


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a judge of the tiny cut-outs, with random weights."""
    labels = Labels(tuple(THINGS), tuple(STYLES))
    config = EvaluatorConfig(len(labels.concepts), len(labels.styles), (8, 8), (1, 1), 16, 4)
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("judges") / "judge"
    write_evaluator(folder, config.build(), labels)
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny cut-outs as one file, and as a shard in a folder beside."""
    folder = tmp_path_factory.mktemp("shapes")
    save_cutouts(cutouts(), folder / "cutouts.safetensors")
    (folder / "shards").mkdir()
    write_shard(folder / "shards" / "one.tar", cutouts())
    return folder / "cutouts.safetensors"


def with_projection() -> Model:
    """The tiny model, with a text tower that ends in a projection of width 64."""
    made = tiny_model()
    (role,) = made.family.text.roles
    spec = replace(
        made.family.text, roles=(replace(role, encoder=replace(role.encoder, projection=64)),)
    )
    tower = randomised(ClipText(spec.roles[0].encoder), 7)
    return replace(made, family=replace(made.family, text=spec), text=Conditioner(spec, [tower]))


def numbers(folder: Path) -> dict[str, Any]:
    """The tables of a report by title, and the facts."""
    report = json.loads((folder / "report.json").read_text())
    return {**{table["title"]: table for table in report["tables"]}, "facts": report["facts"]}


def test_a_quick_look_tells_composition_with_its_ceilings(
    safelight: Cli, model: Path, judge: Path, shapes: Path, place: Path
) -> None:
    ran = safelight(
        *("evaluate", "-m", model, "--cutouts", shapes, "--evaluator", judge, "--quick", *SMALL),
        *("--splits", "seen,heldout_combo", "-o", "told"),
    )
    assert ran.code == 0, ran.err
    assert "report: told/report.md" in ran.out and "heldout_combo" in ran.out
    assert "drawing: 64" in ran.err, "progress is said where there is no terminal"
    found = numbers(place / "told")
    columns = ["model", "real renderings", "codec ceiling", "shuffled prompts"]
    assert found["Composition"]["columns"] == columns
    facts = found["facts"]
    assert facts["prompts"] == 64 and facts["seeds"] == "1 to 64"
    assert facts["sampler"] == "DPM++ 2M, automatic, 1 steps"
    assert pixels(place / "told" / "pictures.png").std() > 0


def test_a_whole_report_has_every_baseline_and_comes_out_the_same_again(
    safelight: Cli, model: Path, judge: Path, shapes: Path, place: Path
) -> None:
    args = (
        *("evaluate", "-m", model, "--cutouts", shapes.parent / "shards", "--evaluator", judge),
        *("--count", 12, "--splits", "seen", "--no-memory", "--sweep", "guidance=1,4", *SMALL),
    )
    reports = []
    for out in ("one", "two"):
        ran = safelight(*args, "-o", out, "--json")
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["report"] == f"{out}/report.md"
        report = json.loads((place / out / "report.json").read_text())
        assert report["facts"].pop("seconds a picture") > 0
        for table in report["tables"]:
            table["rows"].pop("seconds a picture", None)
        reports.append(report)
    assert reports[0] == reports[1]
    found = numbers(place / "one")
    assert found["Composition"]["columns"] == [
        "model",
        "real renderings",
        "codec ceiling",
        "nearest caption's picture",
        "no guidance",
        "shuffled prompts",
        "mean picture",
    ]
    assert found["guidance swept"]["columns"] == ["1", "4"]
    assert "guidance-composition.svg" in files(place / "one")
    # guidance 1 is no guidance: the same pictures, so the same distance
    kid = found["Distances and text match"]["rows"]["SL-eval16 KID"][4]
    assert found["guidance swept"]["rows"]["SL-eval16 KID"][0] == kid
    assert found["guidance swept"]["rows"]["SL-eval16 KID"][1] != kid
    assert "Memorisation" not in found and "Reconstruction of the reference pictures" in found


def test_copies_are_looked_for_and_the_models_own_towers_match_texts(
    safelight: Cli, judge: Path, shapes: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model's folder that carries its judge and a vision tower needs neither named."""
    from safelight.cli import evaluate_scenes

    monkeypatch.setattr(evaluate_scenes, "TRAINING", 40)
    monkeypatch.setattr(evaluate_scenes, "HELD_OUT", 20)
    monkeypatch.setattr(evaluate_scenes, "CAPTIONS", 2)
    monkeypatch.setattr(evaluate_scenes, "POOL", 200)
    folder = place / "own"
    save(with_projection(), folder, "diffusers")
    shutil.copytree(judge, folder / "evaluator")
    tower = ClipVision(ClipVisionConfig(1, 32, 2, 32, "gelu", 64, 32, 16))
    save_clip_vision(randomised(tower, 3), folder / "image_encoder")
    ran = safelight("evaluate", "-m", folder, "--cutouts", shapes, "--count", 12, *SMALL, "-o", "r")
    assert ran.code == 0, ran.err
    found = numbers(place / "r")
    assert "copies, training captions: samples" in found["Memorisation"]["rows"]
    assert "CLIP score (CLIP of own)" in found["Distances and text match"]["rows"]
    assert "CLIP of own" in str(found["facts"]["text match"])
    told = {key for key in found["facts"] if key.startswith("SHA-256 of ")}
    assert told == {"SHA-256 of unet", "SHA-256 of vae", "SHA-256 of text_encoder"}


def test_ordinary_data_is_compared_in_a_named_space(
    safelight: Cli, model: Path, judge: Path, place: Path
) -> None:
    folder = place / "set"
    folder.mkdir()
    for number in range(24):
        Image.new("RGB", (40 + number, 48), (10 * number, 9, 200)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture number {number}")
    (folder / "mute.png").write_bytes((folder / "1.png").read_bytes())
    (folder / "bad.png").write_bytes(b"broken")
    (folder / "bad.txt").write_text("broken")
    tower = ClipVision(ClipVisionConfig(1, 32, 2, 32, "gelu", None, 32, 16))
    save_clip_vision(randomised(tower, 3), place / "tower")
    for features, space in ((judge, "SL-eval16"), (place / "tower", "CLIP-vision-tower")):
        ran = safelight(
            *("evaluate", "-m", model, "--data", folder, "--features", features, *SMALL),
            *("--count", 100, "-o", f"r-{space}"),
        )
        assert ran.code == 0, ran.err
        assert "1 broken picture (bad)" in ran.err and "1 missing caption (mute)" in ran.err
        found = numbers(place / f"r-{space}")
        table = found["Distances and text match"]
        assert f"{space} KID" in table["rows"]
        assert table["columns"][:3] == ["model", "real pictures", "codec ceiling"]
        assert found["facts"]["captions"] == 12 and found["facts"]["left out"] == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "give either --cutouts, for prompts whose facts can be checked, or --data"),
        (("--cutouts", "x", "--data", "y"), "give either --cutouts"),
        (("--cutouts", "x", "--splits", "seen,unseen"), "--splits has 'unseen'; choose of seen, "),
        (("--cutouts", "x", "--count", 0), "--count must be from 1 to 100000; got 0"),
        (("--cutouts", "x", "--seed", -1), "--seed must be from 0"),
        (("--cutouts", "x", "--sweep", "cfg=1"), "give guidance=1,2,3 or steps=5,10,20"),
        (("--cutouts", "x", "--sweep", "steps=1.5"), "steps takes whole numbers from 1"),
        (("--cutouts", "x", "--sweep", "steps=nan"), "steps takes whole numbers from 1"),
        (("--cutouts", "x", "--sweep", "guidance=2,2"), "each value once"),
        (("--cutouts", "x", "--features", "y"), "--features belongs to --data"),
        (("--data", "x", "--quick"), "--quick needs facts to score by"),
        (("--data", "x"), "give --features with the folder of an evaluator"),
        (("--cutouts", "x"), "carries no judge; give --evaluator"),
        (("--cutouts", "x", "--evaluator", "y"), "--evaluator y holds no config.json"),
        (("--cutouts", "x", "--evaluator", "JUDGE"), "--cutouts x is no file of cut-outs"),
        (("--cutouts", "x", "--steps", 0), "steps must be"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line_before_anything_is_drawn(
    safelight: Cli, model: Path, judge: Path, place: Path, args: tuple[object, ...], said: str
) -> None:
    given = [judge if arg == "JUDGE" else arg for arg in args]
    ran = safelight("evaluate", "-m", model, *given, "-o", "r")
    assert ran.code == 2 and said in ran.error()
    assert files(place) == []


def test_towers_that_do_not_meet_are_refused(
    safelight: Cli, model: Path, judge: Path, shapes: Path, place: Path
) -> None:
    tower = ClipVision(ClipVisionConfig(1, 32, 2, 32, "gelu", 48, 32, 16))
    save_clip_vision(randomised(tower, 3), place / "tower")
    ran = safelight(
        *("evaluate", "-m", model, "--cutouts", shapes, "--evaluator", judge, "--quick"),
        *("--clip", "tower", *SMALL),
    )
    assert ran.code == 2
    assert "projection of width 48, the text tower of" in ran.err and "has none" in ran.err
