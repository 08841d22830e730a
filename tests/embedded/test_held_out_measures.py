"""The scripts that measure editing on held-out pictures: cases, statistics, resuming, tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embedded_tiny import script, write_results
from safelight.errors import FileError, RequestError
from safelight.evaluation.kernel import kernel_distance
from safelight.tasks.picture_file import open_input
from safelight.training.scenes.cutouts import save_cutouts
from scenes_tiny import cutouts

pytestmark = pytest.mark.slow

packing = script("pack")
held_out, masked = script("held_out"), script("masked")
inpainting, guiding, edges = script("inpainting"), script("clip_guidance"), script("edges")
few = script("few_steps")
beginning = script("tour_inputs")

Main = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `emoji`, a tiny model with its judge and its CLIP, and the cut-outs."""
    folder = tmp_path_factory.mktemp("held-out")
    runs = write_results(folder / "runs")
    source = packing.Source(*(runs / s / "model" for s in ("diffusion", "clip", "evaluator")))
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(packing, "STEPS", 1)
        packing.pack(source, folder / "emoji")
    save_cutouts(cutouts(), folder / "cutouts.safetensors")
    return folder


@pytest.fixture
def ran(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Main:
    """Runs a script on that model, with a folder of its own; gives the exit code and its output."""

    monkeypatch.setattr(inpainting, "REFERENCE", 8)

    def run(module: object, *more: str) -> tuple[int, str]:
        common = ["--cutouts", str(place / "cutouts.safetensors"), "--model", str(place / "emoji")]
        args = [*common, "--out", str(tmp_path / "out"), "--count", "5", "--steps", "1", *more]
        monkeypatch.setattr("sys.argv", ["script", *args])
        code: int = module.main()  # type: ignore[attr-defined]
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def test_masks_are_random_and_the_same_for_a_seed() -> None:
    masks = [masked.random_mask(64, seed) for seed in range(40)]
    assert all(np.array_equal(m, masked.random_mask(64, k)) for k, m in enumerate(masks))
    assert len({m.tobytes() for m in masks}) == 40
    shares = [float((m > 0).mean()) for m in masks]
    assert min(shares) > 0.03 and max(shares) < 0.6 and max(shares) > 3 * min(shares)


def test_the_part_looked_at_is_a_square_that_holds_the_mask_and_its_surroundings() -> None:
    mask = np.zeros((128, 128, 3), np.uint8)
    mask[40:60, 30:70] = 255
    part = masked.masked_part(mask, mask)
    assert part.shape[0] == part.shape[1] >= 40 + 2 * masked.MARGIN
    assert (part > 0).sum() == (mask > 0).sum() and not part[0].any() and not part[:, 0].any()
    with pytest.raises(RequestError, match="empty"):
        masked.masked_part(mask, np.zeros_like(mask))


def test_a_gain_is_the_difference_of_two_kernel_distances() -> None:
    dice = torch.Generator().manual_seed(0)
    real, one = (torch.randn(60, 6, generator=dice) for _ in range(2))
    other = one + 0.8
    gain = masked.kernel_gain(real, one, other)
    apart = [kernel_distance(real, way).value for way in (one, other)]
    assert gain.value == pytest.approx(apart[1] - apart[0], rel=1e-9)
    assert 0 < gain.low < gain.value < gain.high, "and sure, for what is plainly farther off"
    back = masked.kernel_gain(real, other, one)
    assert (back.value, back.low, back.high) == pytest.approx((-gain.value, -gain.high, -gain.low))
    assert masked.kernel_gain(real, one, one).value == 0


def test_errors_are_standard_errors_of_the_mean() -> None:
    one, other = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 3.0, 5.0])
    assert held_out.with_error(one) == "1.500 ± 0.645"
    assert held_out.paired(one, other) == "+1.500 ± 0.289 (5.2 se)"
    assert held_out.paired(one, one) == "+0.000 ± 0.000"


def test_drawings_of_other_settings_are_not_gone_on_with(tmp_path: Path) -> None:
    held_out.begin(tmp_path / "out", {"steps": 1, "seed": 2})
    held_out.begin(tmp_path / "out", {"seed": 2, "steps": 1})
    with pytest.raises(FileError, match=r"other settings \(seed, unet\)"):
        held_out.begin(tmp_path / "out", {"seed": 3, "steps": 1, "unet": "1f"})


def test_what_is_missing_is_refused_before_anything_is_drawn(
    place: Path, tmp_path: Path, ran: Main
) -> None:
    with pytest.raises(FileError, match="with its judge"):
        held_out.bench([place / "cutouts.safetensors"], str(place / "runs/diffusion/model"))
    code, said = ran(edges, "--control", "no-such-net.safetensors")
    assert code == 2 and "no-such-net" in said
    code, said = ran(inpainting, "--count", "3")
    assert code == 2 and "--count must be 4 or more" in said
    assert not (tmp_path / "out").exists()


def test_inpainting_is_measured_and_a_stopped_run_goes_on(tmp_path: Path, ran: Main) -> None:
    code, table = ran(inpainting)
    assert code == 0, table
    drawn = sorted((tmp_path / "out").glob("0*.png"))
    assert len(drawn) == 5 * len(inpainting.DRAWN)
    for way in (inpainting.REAL, *inpainting.WAYS, inpainting.FILLED):
        assert f"| {way} |" in table
    drawn[3].unlink()
    kept = {path: path.stat().st_mtime_ns for path in drawn if path.exists()}
    assert ran(inpainting) == (0, table), "and finds the same"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert drawn[3].exists()


def test_only_the_masked_part_is_painted_whichever_way(place: Path, tmp_path: Path) -> None:
    desk = held_out.bench([place / "cutouts.safetensors"], str(place / "emoji"))
    cases = inpainting.cases_of(desk, 5, 1)
    held_out.draw(desk.model, inpainting.jobs_of(cases, tmp_path, {"steps": 1}))
    made = inpainting.results(desk, cases, tmp_path)
    for case, *ways in zip(cases, *(made[way] for way in inpainting.WAYS), strict=True):
        outside = case.mask == 0
        for picture in ways:
            assert np.array_equal(picture[outside], case.real[outside])
            assert not np.array_equal(picture, case.real)
    assert not np.array_equal(made["inpainting"][0], made["blend only, drawn from words"][0])


def test_clip_guidance_is_measured_by_both_judges(tmp_path: Path, ran: Main) -> None:
    code, table = ran(guiding, "--scale", "2", "--gradient", "estimate")
    assert code == 0, table
    rows = cells(table)
    assert [row[0] for row in rows[2:]] == list(guiding.MEASURES.values())
    assert all(sum("±" in cell for cell in row) == 4 for row in rows[2:])
    assert "of which" in table and "nan" not in table
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("0*.png")}
    assert len(drawn) == 10
    code, more = ran(guiding, "--scale", "3", "2", "--gradient", "estimate")
    assert code == 0 and {path: path.stat().st_mtime_ns for path in drawn} == drawn
    assert [row[:3] + row[5:] for row in cells(more)] == rows, "another scale changes no other's"


def cells(table: str) -> list[list[str]]:
    """The cells of each row of a table in Markdown."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_verdicts_are_of_the_right_concepts(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = held_out.bench([place / "cutouts.safetensors"], str(place / "emoji"))
    items = guiding.items_of(desk, 6, 1)
    assert all(guiding.single(item.question.facts) for item in items)
    assert guiding.names_of(desk)[0] == "red apple"
    logits = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    own = torch.tensor([1, 1])
    assert guiding._first(logits, own).tolist() == [1, 0]
    wanted = logits.double().softmax(dim=1)[torch.arange(2), own].log()
    assert torch.allclose(guiding._likely(logits, own), wanted)
    monkeypatch.setattr(guiding, "single", lambda facts: False)
    with pytest.raises(RequestError, match="only 0 captions of single things"):
        guiding.items_of(desk, 6, 1)


def test_the_tour_begins_with_questions_of_held_out_splits(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safelight.embedded.carried.shelf", lambda: place / "emoji")
    monkeypatch.setattr(beginning, "REAL", {"koala": beginning.Pick("heldout_combo", 2)})
    written = beginning.write_inputs([place / "cutouts.safetensors"], tmp_path / "inputs")
    assert {path.stem for path in written} == {"koala", "koala-hole", *beginning.MASKS}
    desk = held_out.bench([place / "cutouts.safetensors"])
    item = desk.asked(["heldout_combo"], 5, seed=beginning.SEED)[2]
    own, holed = (open_input(tmp_path / "inputs" / f"{n}.png") for n in ("koala", "koala-hole"))
    assert np.array_equal(own.pixels, desk.real([item])[0]), "of any count the same"
    with Image.open(tmp_path / "inputs" / "koala.png") as file:
        assert file.text["caption"] == item.question.prompt and "MIT" in file.text["source"]
    hole = open_input(tmp_path / "inputs" / "disc.png").pixels[..., 0]
    assert holed.alpha is not None and np.array_equal(holed.alpha, 255 - hole)
    assert {0, 255} == set(np.unique(hole).tolist())


def test_edges_are_measured_with_and_without_a_control(
    place: Path, tmp_path: Path, ran: Main
) -> None:
    control = random_control(place, tmp_path)
    code, table = ran(edges, "--control", str(control))
    assert code == 0, table
    for way in (edges.PLAIN, edges.CONTROLLED, edges.CODED, edges.OTHERS):
        assert f"| {way} |" in table
    assert "The control changed the prediction by " in table
    assert "changed the prediction by 0.000" not in table


def test_few_steps_are_measured_with_a_lora_and_without(
    place: Path, tmp_path: Path, ran: Main
) -> None:
    from safelight.checkpoints.hashes import sha256

    lora = random_lora(tmp_path / "some-lcm.safetensors")
    code, table = ran(few, "--lora", str(lora), "--fewer", "2", "--lora-steps", "1", "2")
    assert code == 0, table
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("0*.png")}
    assert len(drawn) == 5 * 4
    rows = cells(table)
    assert [row[0] for row in rows[2:]] == [
        few.REAL,
        "as it is made to be drawn with",
        "2 steps",
        "1 steps with the LoRA",
        "2 steps with the LoRA",
    ]
    assert all(row[1].endswith("of 5") for row in rows[2:])
    assert [row[-1] for row in rows[3:]] == ["2", "4", "1", "2"], "guidance asks twice a step"
    assert sha256(lora) in table
    code, more = ran(few, "--lora", str(random_lora(lora, seed=2)), "--fewer", "2")
    assert code == 0 and cells(more)[:5] == rows[:5], "another LoRA changes nothing else"
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn
    assert len(list((tmp_path / "out").glob("0*.png"))) == 5 * 5


def random_lora(path: Path, seed: int = 1) -> Path:
    """A LoRA of random weights for the tiny model's first layer."""
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    name = "lora_unet_conv_in"
    tensors = {
        f"{name}.lora_down.weight": torch.randn(2, 8, 3, 3),
        f"{name}.lora_up.weight": torch.randn(16, 2, 1, 1),
        f"{name}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, path)
    return path


def random_control(place: Path, folder: Path) -> Path:
    """A control network for the tiny model with every weight at random, zero convolutions too."""
    from models_tiny import randomised
    from safelight.checkpoints.control_save import save_control
    from safelight.checkpoints.load import load
    from safelight.models.controlnet import ControlNet, ControlNetConfig

    unet = load(place / "emoji", device="cpu").network.unet
    network = randomised(ControlNet(ControlNetConfig(unet.config, widths=(4, 6, 8, 10))), 3)
    path = folder / "edge-control"
    save_control(network, path)
    return path
