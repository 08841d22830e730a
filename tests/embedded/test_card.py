"""The card says what the records hold, by how much a target is missed, and refuses a stranger's."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

import scenes_tiny
from embedded_tiny import SCRIPTS, script, write_results
from safelight.errors import CheckpointError, FileError, OutputError, RequestError
from safelight.evaluation.evaluate import MODEL, OVERALL, REAL
from safelight.evaluation.intervals import Estimate, Share
from safelight.evaluation.report import Report, Table, write
from safelight.evaluation.sheets import sheet
from safelight.training.config.reading import read_config
from safelight.training.scenes.cutouts import save_cutouts

packing, records, sections, cards = (script(n) for n in ("pack", "records", "sections", "card"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed model."""
    place = tmp_path_factory.mktemp("card")
    results = write_results(place / "runs")
    source = packing.Source(*(results / s / "model" for s in ("diffusion", "clip", "evaluator")))
    packing.pack(source, place / "emoji")
    return place / "emoji"


def write_run(folder: Path, plan: str = "diffusion-cpu.toml", **training: object) -> Path:
    """What `safelight train` leaves of a run with this config, changed."""
    config = read_config(SCRIPTS / plan).model_dump(mode="json")
    config["training"] |= training
    config |= {"folder": "/secret/place", "device": "cpu"}
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"safelight": "1", "config": config}))
    log = [
        {"step": step, "seconds": 10.0 * step, "held_out/loss": 1 / step, "held_out/snr_1_3": 0.5}
        for step in range(10, 110, 10)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (folder / "result.json").write_text(json.dumps({"step": 90, "path": "model"}))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    place = tmp_path_factory.mktemp("runs")
    write_run(place / "diffusion", learning_rate=5e-4, steps=100)
    found = {"diffusion": records.run_of("diffusion", place / "diffusion")}
    for recipe in ("clip", "autoencoder", "evaluator"):
        (place / recipe / "model").mkdir(parents=True)
        found[recipe] = records.run_of(recipe, place / recipe)
    return found


def report_of(folder: Path, *, seen: int = 45, **facts: object) -> Report:
    digests = dict(sections.sums_of(folder))
    unet = "unet/diffusion_pytorch_model.safetensors"
    told = {
        "model": "embedded",
        "SHA-256 of unet": digests[unet],
        "evaluator SHA-256": digests["evaluator/evaluator.safetensors"],
        **facts,
    }
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    columns = (MODEL, REAL)
    by_split = Table(
        "By split",
        ("mean of categories", "concept", "concept top 5", "background"),
        {
            "seen": (0.5, Share(seen, 100), Share(80, 100), None),
            f"seen, {REAL}": (0.9, Share(95, 100), Share(99, 100), None),
            "heldout_combo": (0.2, Share(30, 100), Share(30, 100), None),
        },
    )
    single = Table("Single facts", columns, {"background": (Share(97, 100), Share(100, 100))})
    composition = Table("Composition", columns, {OVERALL: (0.6, 0.95)}, "As GenEval.")
    distances = Table("Distances and text match", columns, {"KID": (Estimate(1, 0.5, 2, 8), None)})
    return Report(
        "Evaluation of embedded",
        told,  # type: ignore[arg-type]
        (composition, single, by_split, distances),
        pictures={"not-right.png": sheet(pixels)},
    )


def made(folder: Path, runs: dict[str, object], **changes: object) -> object:
    base = sections.Records(
        folder,
        report_of(folder),
        runs,
        scenes_tiny.cutouts().entries,
        {"teacher": "a teacher (MIT)", "phrases": "a dictionary", "other": "x"},
    )
    return replace(base, **changes)  # type: ignore[type-var]


def line(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_targets_are_told_with_what_is_missing(folder: Path, runs: dict[str, object]) -> None:
    text = cards.card(made(folder, runs))
    first = line(text, "| things as trained, named first")
    assert ">= 50 %" in first and "45.0 %" in first and "(95/100)" in first
    assert first.endswith("missed by 5.0 points |")
    assert line(text, "| things as trained, among the first five").endswith("| reached |")
    assert line(text, "| things in a style never shown, named").endswith("| reached |")
    assert line(text, "| things in a style never shown, first").endswith("missed by 7.5 points |")
    assert line(text, "| background |").endswith("| reached |")
    assert "asked of models trained on a GPU only" in line(text, "| composition |")
    assert "3 of 5 targets are reached" in text


def test_a_gpus_model_is_asked_for_composition_too(folder: Path, runs: dict[str, object]) -> None:
    run = runs["diffusion"]
    other = replace(run, config={**run.config, "device": "auto"})  # type: ignore[attr-defined, type-var]
    text = cards.card(made(folder, {**runs, "diffusion": other}))
    assert line(text, "| composition |").endswith("missed by 15.0 points |")
    assert "3 of 6 targets are reached" in text


def test_what_the_report_lacks_is_said(folder: Path, runs: dict[str, object]) -> None:
    report = replace(report_of(folder), tables=(), pictures={})
    text = cards.card(made(folder, runs, report=report))
    assert text.count("| not measured |") == 5
    assert "not-right" not in text and "0 of 5 targets" in text


def test_data_are_counted_with_licence_and_credit(folder: Path, runs: dict[str, object]) -> None:
    text = cards.card(made(folder, runs))
    entries = scenes_tiny.cutouts().entries
    learned = sum(e.split == "train" for e in entries)
    assert f"{learned} transparent pictures of 12 things" in text
    assert line(text, "| twemoji |").split("|")[2:6] == [" 10 ", " 2 ", *(
        f" {cell} " for cell in ("drawn by code 1.2.5", "MIT")
    )]  # fmt: skip
    assert "a teacher (MIT); phrases from a dictionary" in text
    assert "emojibase-data 17.0.0" in text


def test_training_is_told_by_commands_and_figures_without_places(
    folder: Path, runs: dict[str, object]
) -> None:
    text = cards.card(made(folder, runs))
    assert (
        "safelight train scripts/embedded/diffusion-cpu.toml --set training.steps=100 "
        "--set training.learning_rate=0.0005\n"
    ) in text
    assert "safelight train scripts/embedded/clip.toml\n" in text
    assert "/secret" not in text and "/tmp" not in text
    row = line(text, "| diffusion | 90 | 32 | 2,880 | 15 min |")
    assert "loss 0.01111" in row and "snr" not in row
    lost = "Of some runs (clip, autoencoder, evaluator) the result was kept and not the whole"
    assert lost in text
    assert line(text, "| clip |").startswith("| clip | 2,075 (planned) | 1024 | 2,124,800 (pl")
    assert "| held-out loss | 0.1000 |" in text and "0.0111 |" in line(text, "| held-out loss")


def test_every_table_fact_and_hash_is_there(folder: Path, runs: dict[str, object]) -> None:
    text = cards.card(made(folder, runs))
    assert "### Distances and text match" in text and "| KID | 1 [0.5, 2] | - |" in text
    assert "As GenEval." in text
    for name, digest in sections.sums_of(folder):
        assert f"| {name} | {digest} |" in text
    total = sum((folder / name).stat().st_size for name, _ in sections.sums_of(folder))
    assert f"{total / 1e6:.1f} MB" in text


@pytest.mark.parametrize("name", ["SHA-256 of unet", "evaluator SHA-256"])
def test_a_report_of_other_weights_is_refused(
    folder: Path, runs: dict[str, object], name: str
) -> None:
    report = report_of(folder, **{name: "ab" * 32})
    with pytest.raises(CheckpointError, match="the report is of another model"):
        cards.card(made(folder, runs, report=report))


def test_the_files_beside_the_card_are_small_and_whole(
    folder: Path, runs: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards.write_card(made(folder, runs))
    text = (folder / "README.md").read_text()
    for name in ("curve.svg", "not-right.webp"):
        assert f"({name})" in text and (folder / name).is_file()
    with Image.open(BytesIO((folder / "not-right.webp").read_bytes())) as picture:
        assert picture.format == "WEBP"
    assert packing.sums(folder).count("\n") == (folder / "SHA256SUMS").read_text().count("\n") + 3
    monkeypatch.setattr(packing, "LIMIT", 1000)
    monkeypatch.setattr(cards, "check_sizes", packing.check_sizes)
    with pytest.raises(OutputError, match="and may have 1000"):
        cards.write_card(made(folder, runs))


def test_a_run_is_read_up_to_the_weights_that_were_taken(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert records.run_of("diffusion", folder).steps == 90
    half = records.run_of("diffusion", folder, 50)
    assert (half.steps, half.seconds, half.samples) == (50, 500.0, 1600)
    assert half.curve[-1] == (1600, 0.02) and half.figures["loss"] == 0.02
    (folder / "result.json").unlink()
    assert records.run_of("diffusion", folder).steps == 100
    with pytest.raises(RequestError, match="is a run of diffusion, not of clip"):
        records.run_of("clip", folder)


def test_the_nearest_plan_is_named(tmp_path: Path) -> None:
    for plan in ("diffusion.toml", "diffusion-cpu.toml"):
        run = records.run_of("diffusion", write_run(tmp_path / plan, plan))
        assert run.plan.name == plan and run.command == f"safelight train scripts/embedded/{plan}"


def test_the_script_needs_every_run(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_cutouts(scenes_tiny.cutouts(), tmp_path / "cutouts.safetensors")
    write(report_of(folder), tmp_path / "report")
    write_run(tmp_path / "diffusion")
    args = ["card.py", "--report", str(tmp_path / "report"), "--model", str(folder)]
    args += ["--cutouts", str(tmp_path / "cutouts.safetensors")]
    args += ["--run", f"diffusion={tmp_path / 'diffusion'}"]
    monkeypatch.setattr("sys.argv", args)
    with pytest.raises(SystemExit):
        cards.main()
    assert "--run clip=FOLDER is missing" in capsys.readouterr().err
    args += [f"--run={recipe}={tmp_path}" for recipe in ("clip", "autoencoder", "evaluator")]
    monkeypatch.setattr("sys.argv", args)
    assert cards.main() == 0
    assert (folder / "README.md").read_text().startswith("# own\n")
    monkeypatch.setattr("sys.argv", [*args, "--report", str(tmp_path)])
    assert cards.main() == 2
    assert "report.json" in capsys.readouterr().err


def test_without_a_list_of_hashes_it_is_no_packed_model(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"run pack\.py"):
        sections.sums_of(tmp_path)
