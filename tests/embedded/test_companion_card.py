"""What goes with the model is packed with it, and the card tells of the very file that ships."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import scenes_tiny
from embedded_tiny import SCRIPTS, script, write_results
from models_tiny import randomised
from own_model import model_of, shipped_family, small_family
from safelight.checkpoints.control_about import FILE, making_of, write_making
from safelight.checkpoints.control_save import save_control
from safelight.checkpoints.load import load
from safelight.checkpoints.save import save
from safelight.embedded.carried import COMPANIONS, EDGES
from safelight.errors import CheckpointError
from safelight.evaluation.report import Report
from safelight.families import Family
from safelight.models.controlnet import controlnet_of
from safelight.preprocessors.making import Making
from safelight.training.config.reading import read_config

packing, companions, records, sections, told = (
    script(name) for name in ("pack", "companions", "records", "sections", "companion_sections")
)
MAKING = Making("soft_edge", {"detail": 1.5})
WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_edges(folder: Path, family: Family, making: Making | None = MAKING) -> Path:
    """What the recipe controlnet leaves, for a model of this family."""
    unet = model_of(family).network.unet
    save_control(randomised(controlnet_of(unet, widths=(4, 4, 4, 4)), 7), folder)
    if making is not None:
        write_making(making, folder)
    return folder


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_edges(tmp_path_factory.mktemp("edge-control") / "model", small_family())


@pytest.fixture(scope="module")
def packed(edges: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with what goes with it, and its list of hashes."""
    folder, model = tmp_path_factory.mktemp("package") / "emoji", model_of(small_family())
    save(model, folder)
    companions.write_companions(model, folder, edges=edges)
    (folder / packing.SUMS).write_text(packing.sums(folder))
    return folder


def source(folder: Path, edges: Path | None) -> object:
    """What `pack` takes: results of all stages, written into a folder."""
    if not folder.exists():
        write_results(folder)
    stages = (folder / stage / "model" for stage in ("diffusion", "clip", "evaluator"))
    return packing.Source(*stages, edges=edges)


def write_run(folder: Path) -> Path:
    """What training leaves of a ControlNet's run."""
    config = read_config(SCRIPTS / "edge-control-cpu.toml").model_dump(mode="json")
    config |= {"folder": "/secret/place"}
    config["model"]["checkpoint"] = "/secret/model"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"safelight": "1", "config": config}))
    lines = [
        {
            "step": step,
            "seconds": 2.0 * step,
            "held_out/loss": 1 / step,
            "held_out/loss_without_map": 0.5,
            "previews/f1": 1 - 10 / step,
        }
        for step in (100, 200)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text(json.dumps({"step": 200, "path": "model"}))
    return folder


def records_of(packed: Path, run: Path | None, **changes: object) -> object:
    runs = {} if run is None else {"edge-control": records.run_of("edge-control", run)}
    entries = scenes_tiny.cutouts().entries
    return replace(
        sections.Records(packed, Report("Evaluation", {}, ()), runs, entries, {}),
        **changes,  # type: ignore[type-var]
    )


def text_of(packed: Path, run: Path | None, **changes: object) -> str:
    model = load(packed, dtype=None, device="cpu")
    return "\n".join(told.edges(records_of(packed, run, **changes), model))


def test_it_is_packed_in_sixteen_bits_with_how_its_maps_are_made(packed: Path) -> None:
    folder = packed / COMPANIONS[EDGES]
    header = (folder / WEIGHTS).read_bytes()[:20_000]
    assert b'"F16"' in header and b'"F32"' not in header
    assert making_of(folder) == Making("soft_edge", {"detail": 1.5, "gain": 2.0})
    listed = [name for name, _ in sections.sums_of(packed)]
    assert {f"{COMPANIONS[EDGES]}/{name}" for name in (WEIGHTS, FILE, "config.json")} <= {*listed}


@pytest.mark.parametrize(
    ("family", "making", "said"),
    [
        (small_family(), None, "does not say how its maps were made"),
        (shipped_family(), MAKING, "but the loaded model is own"),
    ],
)
def test_what_does_not_go_with_the_model_is_not_written(
    tmp_path: Path, family: Family, making: Making | None, said: str
) -> None:
    given = write_edges(tmp_path / "given", family, making)
    with pytest.raises(CheckpointError, match=said):
        companions.write_companions(model_of(small_family()), tmp_path / "emoji", edges=given)
    assert not (tmp_path / "emoji").exists()


@pytest.mark.slow
def test_it_is_packed_with_the_model_and_compared(
    edges: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "STEPS", 2)
    target = tmp_path / "package" / "emoji"
    packing.pack(source(tmp_path / "runs", edges), target)
    listed = [name for name, _ in sections.sums_of(target)]
    beside = [name for name in listed if name.startswith("controls/")]
    assert len(beside) == 3
    own = sum((target / name).stat().st_size for name in listed if name not in beside)
    model = load(target, dtype=None, device="cpu")
    head = "\n".join(sections.head(records_of(target, None), model))
    assert f"{own / 1e6:.1f} MB" in head, "the size of the model is its own"

    def another(model: object, path: Path) -> object:
        network = companions.edges_of(model, path)
        if path.is_relative_to(edges):
            network.controlnet_mid_block.bias.data += 0.01
        return network

    monkeypatch.setattr(packing, "edges_of", another)
    with pytest.raises(CheckpointError, match="was not written as it was read"):
        packing.pack(source(tmp_path / "runs", edges), target, replace=True)


def test_the_card_says_what_it_is_and_how_it_learned(packed: Path, tmp_path: Path) -> None:
    machines = {"edge-control": "two cores"}
    text = text_of(packed, write_run(tmp_path / "run"), machines=machines)
    size = sum(path.stat().st_size for path in (packed / COMPANIONS[EDGES]).iterdir())
    assert f"{size / 1e6:.1f} MB" in text and "soft_edge, detail 1.5, gain 2.0" in text
    assert "200 of 5,000 steps of 16 scenes, in 7 min on two cores" in text
    assert "| samples | 1,600 | 3,200 |" in text
    assert "| held-out loss | 0.01 | 0.005 |" in text
    assert "| edge F1 of 16 previews | 0.9 | 0.95 |" in text
    assert "What it does was not measured." in text


def test_its_command_keeps_no_place(packed: Path, tmp_path: Path) -> None:
    run = records.run_of("edge-control", write_run(tmp_path / "run"))
    assert run.command == "safelight train scripts/embedded/edge-control-cpu.toml"


def test_a_run_that_is_lost_is_said(packed: Path) -> None:
    assert "## Drawing along edges" in text_of(packed, None)
    assert "Its training is not on record." in text_of(packed, None)


def test_only_what_was_measured_with_this_very_file_is_told(packed: Path, tmp_path: Path) -> None:
    digest = dict(sections.sums_of(packed))[f"{COMPANIONS[EDGES]}/{WEIGHTS}"]
    (tmp_path / "table.md").write_text("| edge F1 |\n|---|\n| 0.9 |\n")
    (tmp_path / "settings.json").write_text(json.dumps({"control": digest}))
    measured = {EDGES: tmp_path}
    text = text_of(packed, None, measured=measured)
    assert "| 0.9 |" in text and "scripts/embedded/edges.py --cutouts" in text
    (tmp_path / "settings.json").write_text(json.dumps({"control": "ab" * 32}))
    with pytest.raises(CheckpointError, match=f"measured with another {EDGES}"):
        text_of(packed, None, measured=measured)


def test_a_model_without_it_says_nothing_of_it(tmp_path: Path) -> None:
    save(model_of(small_family()), tmp_path / "emoji")
    assert text_of(tmp_path / "emoji", None) == ""
