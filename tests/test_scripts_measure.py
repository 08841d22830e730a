"""The scripts that measure: what they compare is alike, and what they report follows from it."""

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import CLIPTokenizer

import scenes_tiny
from safelight.checkpoints.evaluator_folder import write_evaluator
from safelight.models.evaluator import EvaluatorConfig, Labels
from safelight.models.unet import UNet
from safelight.training.autoencoder.task import as_floats
from safelight.training.scenes.cutouts import save_cutouts

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import bench_shapes
import bench_training
import tradeoff_parts
import tradeoff_sweep
import tradeoffs
from bench_training import Block, result
from diffusers_trainer import Encoded, PictureFiles, Trainer


def blocks(*seconds: float) -> list[Block]:
    return [Block(second, 2 * second) for second in seconds]


def test_the_first_block_does_not_count_and_ratios_are_of_neighbours() -> None:
    found = result("step", blocks(99, 1, 2, 4), blocks(1, 2, 2, 12), batch=8)
    assert (found.ours, found.theirs) == (4.0, 4.0)
    assert (found.lowest, found.ratio, found.highest) == (1.0, 2.0, 3.0)
    assert found.processor == 2.0


def test_one_block_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        result("step", blocks(1), blocks(1), batch=8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model and its pictures."""
    folder = tmp_path_factory.mktemp("tiny")
    with bench_training.prepared(bench_shapes.SHAPES["tiny"], 1) as made:
        made.rename(folder / "all")
        made.mkdir()  # what made it wants to clear it away
    return folder / "all"


def test_both_networks_are_the_same_one(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench_training.check_same(tiny / "model", bench_shapes.SHAPES["tiny"])
    assert "the same U-Net" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="not the same"):
        bench_training.check_same(tiny / "model", altered())


def altered() -> bench_shapes.Shape:
    """The tiny shape with another number of heads: the same weights mean something else."""
    shape = bench_shapes.SHAPES["tiny"]
    backbone = replace(shape.family.backbone, heads=(1, 1))
    return replace(shape, family=replace(shape.family, backbone=backbone))


def test_the_other_trainer_learns_what_it_is_given(tiny: Path) -> None:
    latents, states = bench_training.noise(bench_shapes.SHAPES["tiny"], 4)
    trainer = Trainer(
        tiny / "model",
        lambda tokenizer: Encoded(latents, states),
        batch=4,
        bf16=False,
        ema=True,
        device=torch.device("cpu"),
    )
    before = [p.detach().clone() for p in trainer.unet.parameters()]
    assert trainer.steps(2) > 0
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.unet.parameters(), strict=True)]
    assert all(moved)


def test_the_other_trainers_pictures_are_framed_and_in_range(tiny: Path) -> None:
    files = tuple(sorted((tiny / "pictures").glob("*.jpg")))
    tokenizer = CLIPTokenizer.from_pretrained(tiny / "model", subfolder="tokenizer")
    data = PictureFiles(files, ("a cloud",) * len(files), tokenizer, 32)
    row = data[0]
    assert row["pixel_values"].shape == (3, 32, 32) and row["input_ids"].shape == (77,)
    assert -1 <= float(row["pixel_values"].min()) < float(row["pixel_values"].max()) <= 1


@pytest.mark.slow
def test_the_whole_comparison_runs(tiny: Path) -> None:
    setup = bench_training.Setup(
        bench_shapes.SHAPES["tiny"], 4, "fp32", False, torch.device("cpu"), False, False, 1, 1, tiny
    )
    found = [
        one for compare in ("step", "job") for one in bench_training.COMPARISONS[compare](setup)
    ]
    assert [one.comparison for one in found] == ["step", "job", "job, encoding each step"]
    assert all(one.ours > 0 and one.theirs > 0 for one in found)


# -- trade-offs ------------------------------------------------------------------------------------


def weights(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_factor_gets_as_many_weights() -> None:
    networks = [weights(tradeoff_parts.unet(factor)) for factor in tradeoff_parts.CHANNELS]
    assert max(networks) / min(networks) < 1.005
    codecs = [tradeoff_parts.coder_config(f) for f in tradeoff_parts.CODEC_WIDTHS]
    sizes = [weights(config.build()) for config in codecs]
    assert max(sizes) / min(sizes) < 1.15
    assert [config.factor for config in codecs] == list(tradeoff_parts.CODEC_WIDTHS)


def test_pixels_as_latents_have_unit_size_and_come_back() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 200, (6, 3, 8, 8), generator=generator).to(torch.uint8)
    codec = tradeoff_parts.pixel_codec(pictures)
    latents = codec.encode(as_floats(pictures)).mode()
    assert (codec.factor, codec.channels, latents.shape) == (1, 3, pictures.shape)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(3), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(codec.decode(latents), as_floats(pictures), rtol=0, atol=1e-5)


def test_weights_come_back_from_their_file(tmp_path: Path) -> None:
    first, second = (tradeoff_parts.coder_config(2).build() for _ in range(2))
    tradeoff_parts.keep(tmp_path / "codec.safetensors", first)
    tradeoff_parts.kept(tmp_path / "codec.safetensors", second)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_pictures_are_drawn_alike_from_the_same_seed_whatever_the_batch() -> None:
    codec = tradeoff_parts.pixel_codec(torch.randint(0, 255, (4, 3, 8, 8)).to(torch.uint8))
    network = tradeoff_parts.unet(1).eval()
    with torch.no_grad():
        network.conv_out.weight.normal_(std=0.02)
    words = torch.randn(3, 3, tradeoff_parts.WORD)

    def drawn(batch: int) -> Tensor:
        return tradeoff_parts.draw_pictures(network, codec, words, 8, steps=2, batch=batch)

    assert isinstance(network, UNet) and drawn(3).std() > 0.05
    torch.testing.assert_close(drawn(3), drawn(1), rtol=0, atol=1e-4)


def test_a_table_says_how_many_times_the_first_row() -> None:
    rows = [
        tradeoffs.Speed(1, 3, 64, 5_000_000, 2.0, 2.0, 1.0),
        tradeoffs.Speed(4, 4, 16, 5_000_000, 9.0, 7.0, 8.0),
    ]
    last = tradeoffs.speed_table(rows).splitlines()[-1]
    assert last == "| 4 | 4x16x16 | 5.00 M | 9.0 | 4.5 | 7.0 | 3.5 | 8.0 | 8.0 |"


@pytest.fixture
def study(tmp_path: Path) -> Namespace:
    """A sweep of two factors that takes seconds."""
    labels = Labels(("a", "b"), ("flat", "3d"))
    evaluator = EvaluatorConfig(2, 2, widths=(8, 8), blocks=(1, 1), image_size=16).build()
    write_evaluator(tmp_path / "evaluator", evaluator, labels)
    save_cutouts(scenes_tiny.cutouts(), tmp_path / "cutouts.safetensors")
    return Namespace(
        factors=[1, 4],
        size=16,
        batch=4,
        draw_steps=2,
        device="cpu",
        cutouts=tmp_path / "cutouts.safetensors",
        evaluator=tmp_path / "evaluator",
        work=tmp_path / "work",
        minutes=0.0,
        codec_steps=3,
        steps=4,
        count=6,
        scenes=16,
        concepts=3,
    )


@pytest.mark.slow
def test_a_sweep_that_was_cut_off_goes_on_to_the_report(study: Namespace) -> None:
    assert tradeoff_sweep.sweep(study) == 75
    study.minutes = 5.0
    assert tradeoff_sweep.sweep(study) == 0
    notes = sorted(study.work.glob("unet-4-*.json"))
    assert [json.loads(note.read_text())["step"] for note in notes] == [1, 2, 3, 4]
    text = (study.work / "report.md").read_text()
    assert text.count("\n| 1 | ") == text.count("\n| 4 | ") == 5  # what is kept, and four distances
    times = {path: path.stat().st_mtime_ns for path in study.work.glob("*.json")}
    assert tradeoff_sweep.sweep(study) == 0
    again = {path: path.stat().st_mtime_ns for path in study.work.glob("*.json")}
    assert {p for p in times if times[p] != again[p]} <= {study.work / "plan.json"}


def test_another_plan_needs_another_folder(study: Namespace) -> None:
    study.work.mkdir()
    (study.work / "plan.json").write_text('{"size": 8}')
    with pytest.raises(SystemExit, match="another plan"):
        tradeoff_sweep.sweep(study)
