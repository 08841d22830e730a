"""Training's results become the embedded model: the same weights, whole, small, and repeatable."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from embedded_tiny import script, write_results
from own_model import model_of, small_family
from safelight.checkpoints.clip_pair import load_clip_pair
from safelight.checkpoints.evaluator_folder import load_evaluator
from safelight.checkpoints.load import load
from safelight.checkpoints.vision_folder import load_clip_vision
from safelight.errors import CheckpointError, OutputError

pytestmark = pytest.mark.slow

packing = script("pack")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "STEPS", 2)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("runs") / "embedded")


def source(results: Path) -> object:
    return packing.Source(*(results / s / "model" for s in ("diffusion", "clip", "evaluator")))


def content(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def packed(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "emoji"
    packing.pack(source(results), folder)
    return folder


def test_it_holds_every_part_in_sixteen_bits(packed: Path) -> None:
    assert {path.name for path in packed.iterdir()} == {
        *("unet", "vae", "text_encoder", "tokenizer", "scheduler", "image_encoder"),
        *("feature_extractor", "evaluator", "model_index.json", "safelight.json", "SHA256SUMS"),
    }
    assert load(packed, dtype=None, device="cpu").family.label == "own"
    for part in packed.glob("*/*.safetensors"):
        header = part.read_bytes()[:20_000]
        assert b'"F16"' in header and b'"F32"' not in header, part


def test_the_clip_keeps_the_scale_that_it_learned(packed: Path) -> None:
    assert load_clip_pair(packed).logit_scale == 3.5


def test_the_same_sources_give_the_same_bytes(packed: Path, results: Path, tmp_path: Path) -> None:
    again = tmp_path / "emoji"
    assert len(packing.pack(source(results), again)) == len(content(packed))
    assert content(again) == content(packed)
    assert packing.pack(source(results), again, replace=True) == [], "nothing is new to history"
    assert [p.name for p in tmp_path.iterdir()] == ["emoji"], "nothing else is left"


def test_the_list_of_hashes_is_of_every_file(packed: Path) -> None:
    listed = dict(
        reversed(line.split("  ")) for line in (packed / "SHA256SUMS").read_text().splitlines()
    )
    files = {name: data for name, data in content(packed).items() if name != "SHA256SUMS"}
    assert listed == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


@pytest.mark.slow
def test_diffusers_opens_it(packed: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(packed, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe("a red apple", num_inference_steps=2, output_type="np").images
    assert pictures.shape == (1, 128, 128, 3)


def test_what_was_written_draws_what_its_source_draws(packed: Path, results: Path) -> None:
    model = load(results / "diffusion" / "model", dtype=torch.float32)
    written = load(packed, dtype=torch.float32)
    apart, levels = packing.check_drawing(model, written)
    assert 0 < apart < 0.01 and levels < 1
    with pytest.raises(CheckpointError, match="draws something else"):
        packing.check_drawing(model, model_of(small_family(), seed=1))


def test_a_weight_that_differs_is_named(packed: Path, results: Path) -> None:
    model = load(results / "diffusion" / "model", dtype=torch.float32)
    vision = load_clip_vision(packed, dtype=torch.float32)
    judge = load_evaluator(packed / "evaluator").evaluator
    packing.check_weights(model, vision, judge, packed)
    with torch.no_grad():
        model.network.unet.conv_out.bias[3] += 0.01
    with pytest.raises(CheckpointError, match=r"UNet: conv_out\.bias was not written"):
        packing.check_weights(model, vision, judge, packed)
    other = load(results / "diffusion" / "model", dtype=torch.float32)
    hint = replace(other.family.hint, steps=9)
    with pytest.raises(CheckpointError, match="process, settings or words"):
        packing.check_weights(
            replace(other, family=replace(other.family, hint=hint)), vision, judge, packed
        )


@pytest.mark.parametrize(("limit", "said"), [("FILE_LIMIT", "a file may have"), ("LIMIT", "in")])
def test_what_is_too_large_changes_nothing(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, said: str
) -> None:
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "old").write_text("old")
    monkeypatch.setattr(packing, limit, 20_000)
    with pytest.raises(OutputError, match="bytes"):
        packing.pack(source(results), tmp_path / "emoji", replace=True)
    assert content(tmp_path) == {"emoji/old": b"old"}


def test_large_parts_are_split_and_opened_again(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD", 100_000)
    folder = tmp_path / "emoji"
    packing.pack(source(results), folder)
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    assert max(p.stat().st_size for p in (folder / "unet").glob("*.safetensors")) <= 100_000


def test_an_older_model_is_replaced_only_when_told(results: Path, tmp_path: Path) -> None:
    target = tmp_path / "emoji"
    target.mkdir()
    (target / "README.md").write_text("the card of the old one")
    with pytest.raises(OutputError, match="--replace"):
        packing.pack(source(results), target)
    packing.pack(source(results), target, replace=True)
    assert not (target / "README.md").exists(), "a card is of one model"
    assert (target / "model_index.json").exists()


def test_the_clip_must_be_that_of_the_model(results: Path, tmp_path: Path) -> None:
    other = write_results(tmp_path / "other", seed=3)
    mixed = replace(source(results), clip=other / "clip" / "model")  # type: ignore[type-var]
    with pytest.raises(CheckpointError, match="the text tower of the diffusion model is not that"):
        packing.pack(mixed, tmp_path / "emoji")
    assert not (tmp_path / "emoji").exists()


def test_a_part_that_is_missing_leaves_nothing(results: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(results, runs)
    shutil.rmtree(runs / "evaluator" / "model")
    assert packing.main.__module__ == "embedded_pack"
    with pytest.raises(Exception, match=r"config\.json"):
        packing.pack(source(runs), tmp_path / "package" / "emoji")
    assert list((tmp_path / "package").iterdir()) == []
