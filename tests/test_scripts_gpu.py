"""The scripts for GPUs: their dry runs on a CPU take in the engines that are for GPUs."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "gpu"))
import bench as gpu_bench
import bench_contenders
import bench_turns
import bench_twins
import parity

from models_tiny import distance
from safelight.benchmarks.alike import TOLERANCE
from safelight.benchmarks.contenders import Contender
from safelight.benchmarks.geometry import random_model, small
from safelight.engines import fp8, recorded
from safelight.families import SD15

SETUP = bench_twins.Setup(torch.device("cpu"), small=True, rounds=2, seconds=0.0)


def test_parity_asks_the_engines_for_gpus_unless_told_otherwise() -> None:
    assert parity.USUAL == ("eager", recorded.NAME, fp8.NAME)


@torch.no_grad()
def test_on_a_cpu_recorded_gives_the_same_bits_and_fp8_what_eight_bits_can() -> None:
    eager = parity.parts(random_model(small(SD15)))
    for engine, least, most in ((recorded.NAME, 0.0, 0.0), (fp8.NAME, 1e-3, TOLERANCE["int8"])):
        model = parity.computed(random_model(small(SD15)), engine)
        assert model.engine == engine
        made = parity.parts(model)
        assert least <= distance(made["unet"], eager["unet"]) <= most, engine
        # both compute the U-Net alone
        assert torch.equal(made["decode"], eager["decode"])
        assert torch.equal(made["text"], eager["text"])


def test_what_one_engine_did_is_not_skipped_for_another(tmp_path: Path) -> None:
    out = tmp_path / "parity.jsonl"
    assert parity.held(out) == set()
    row = {"family": "sd15", "device": "cuda", "engine": "eager", "part": "unet"}
    out.write_text(json.dumps(row) + "\n")
    assert parity.held(out) == {("sd15", "eager", "cuda")}


def test_the_benchmark_has_cases_of_both_engines() -> None:
    names = [case.name for case in gpu_bench.cases(8)]
    assert len(names) == len(set(names))
    for engine in (recorded.NAME, fp8.NAME):
        assert any(name.startswith(f"{engine}-sd15") for name in names)


@pytest.mark.slow
def test_fp8_is_a_copy_that_takes_less_and_is_held_to_what_eight_bits_allow() -> None:
    pytest.importorskip("diffusers")
    bench = bench_contenders.Bench(SETUP)
    bench.hold("sd15")
    variants = (("ours", ""), ("ours", "fp8"))
    with torch.no_grad():
        makers = bench_contenders.unet_contenders(bench, "sd15", "bf16", 2, 512, variants)
        plain, narrow = list(bench_turns.compared(SETUP, makers, rounds=1))
    assert "error" not in plain and "error" not in narrow
    assert 0.45 < float(narrow["weights_gib"]) / float(plain["weights_gib"]) < 0.6  # type: ignore[arg-type]
    ours = bench.unets("sd15", "bf16").ours
    assert not any(isinstance(p, fp8.Fp8Weight) for p in ours.parameters())
    # at fp16's tolerance it would be other work
    assert 0.02 < float(narrow["apart"]) < TOLERANCE["int8"]  # type: ignore[arg-type]
    assert Contender("fp8", "fp16").arithmetic == "int8"


def test_pictures_are_compared_in_levels() -> None:
    def made(name: str, level: int) -> bench_contenders.Contender:
        picture = torch.full((1, 4, 4, 3), level, dtype=torch.uint8)
        picture[0, 0] = 255
        return bench_contenders.Contender(name, lambda: picture, ())

    makers = [lambda: made("ours", 11), lambda: made("diffusers", 10)]
    ours, theirs = list(bench_turns.compared(SETUP, makers, rounds=1, pictures=1))
    assert ours["largest_pixel_difference"] == 1 and ours["same"] is True
    assert theirs["largest_pixel_difference"] == 0 and theirs["times_diffusers"] == 1
