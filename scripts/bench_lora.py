#!/usr/bin/env python3
"""Time and memory of a LoRA by our trainer and by Diffusers' example: same model, same pictures.

    python scripts/bench_lora.py --shape sd15 --device cuda --precision bf16 --out lora.json
    OMP_NUM_THREADS=2 python scripts/bench_lora.py --shape sd15 --size 128 --batch 1 --steps 3
    python scripts/bench_lora.py --shape tiny --steps 3            # does it run?

Each side is a process of its own, which loads the model from its folder, trains a rank-r LoRA of
queries, keys, values and outputs on a folder of JPEGs, and ends; they take turns. Ours encodes the
pictures before the first step, theirs in every step, as each does by default. On a CPU ours has its
weights channels-last, as the preset for a CPU has it. Counted are the
median of the steps but the first, and the peak of memory over the whole process: on a GPU what
PyTorch had allocated, else the resident set.
Needs the packages of requirements-oracles.txt.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

SIDES = ("ours", "theirs")
CAPTIONS = 16  # pictures in the folder


def main() -> int:
    given = arguments()
    if given.side:
        print(json.dumps(run(given.side, given, given.folder)))
        return 0
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="safelight-bench-") as place:
        prepare(given, Path(place))
        for _ in range(given.rounds):
            for side in SIDES:
                found[side].append(alone(side, Path(place)))
    told = summary(found)
    print(json.dumps(told, indent=1))
    if given.out:
        given.out.write_text(json.dumps({**told, "runs": found, "asked": _plain(given)}, indent=1))
    return 0


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Medians of the rounds, how many times faster ours is, and what share of memory it needs."""
    step = {s: statistics.median(r["seconds"] for r in found[s]) for s in SIDES}
    peak = {s: max(r["peak_mb"] for r in found[s]) for s in SIDES}
    return {
        **{f"{side}_seconds_a_step": step[side] for side in SIDES},
        **{f"{side}_peak_mb": peak[side] for side in SIDES},
        "times_faster": step["theirs"] / step["ours"],
        "share_of_memory": peak["ours"] / peak["theirs"],
    }


def alone(side: str, place: Path) -> dict[str, float]:
    """One side in a process of its own."""
    asked = [*sys.argv[1:], "--side", side, "--folder", str(place)]
    done = subprocess.run(
        [sys.executable, __file__, *asked], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{side} failed: {done.stderr[-2000:]}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def prepare(given: argparse.Namespace, place: Path) -> None:
    """The model as a folder, and pictures with captions."""
    import bench_shapes

    from safelight.checkpoints.save import save

    shape = bench_shapes.SHAPES[given.shape]
    save(bench_shapes.model(shape.family), place / "model")
    bench_shapes.draw_pictures(place / "pictures", given.size or shape.size, CAPTIONS)


def run(side: str, given: argparse.Namespace, place: Path) -> dict[str, float]:
    """Train one side; what its steps took, and the peak of memory."""
    times = ours(given, place) if side == "ours" else theirs(given, place)
    return {"seconds": statistics.median(times[1:]), "peak_mb": peak(given.device)}


def peak(device: str) -> float:
    """MB of memory that were taken at most."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def ours(given: argparse.Namespace, place: Path) -> list[float]:
    """Seconds of each step of the recipe "lora"."""
    from safelight.training.config.reading import checked
    from safelight.training.loop import train
    from safelight.training.recipes.building import job_of
    from safelight.training.recipes.job import Workshop
    from safelight.training.watch import Watch

    size = given.size or _size(given.shape)
    folder = Path(tempfile.mkdtemp(dir=place))
    values = {
        "recipe": "lora",
        "folder": str(folder),
        "data": {"path": str(place / "pictures"), "size": size, "max_aspect": 1.0,
                 "multiple": _multiple(given.shape), "held_out": 0.0},
        "model": {"checkpoint": str(place / "model")},
        "adapter": {"rank": given.rank},
        "noise": {"caption_dropout": 0.0, "checkpointing": given.checkpointing},
        "training": {"batch_size": _batch(given), "steps": given.steps, "log_every": 1,
                     "precision": given.precision, "save_every": 1e9,
                     "channels_last": given.device == "cpu"},
    }  # fmt: skip

    class Clock(Watch):
        def __init__(self) -> None:
            self.times: list[float] = []
            self.mark = time.perf_counter()

        def logged(self, record: Any) -> None:
            now = time.perf_counter()
            self.times.append(now - self.mark)
            self.mark = now

    clock, device = Clock(), torch.device(given.device)
    workshop = Workshop(device, folder)
    with workshop.stack:
        job = job_of(checked(values, "bench"), workshop)
        clock.mark = time.perf_counter()
        train(job.task, job.data, job.settings, folder, device=device, order=job.order, watch=clock)
    return clock.times


def theirs(given: argparse.Namespace, place: Path) -> list[float]:
    """Seconds of each step of the example."""
    from diffusers_lora_trainer import LoraTrainer
    from diffusers_trainer import PictureFiles

    files = tuple(sorted((place / "pictures").glob("*.jpg")))
    captions = tuple(path.with_suffix(".txt").read_text().strip() for path in files)
    size = given.size or _size(given.shape)
    trainer = LoraTrainer(
        place / "model",
        lambda tokenizer: PictureFiles(files, captions, tokenizer, size),
        batch=_batch(given),
        rank=given.rank,
        bf16=given.precision == "bf16",
        checkpointing=given.checkpointing,
        device=torch.device(given.device),
    )
    times = []
    for _ in range(given.steps):
        begun = time.perf_counter()
        trainer.step()  # reads its loss, so the device is done
        times.append(time.perf_counter() - begun)
    return times


def _size(name: str) -> int:
    import bench_shapes

    return bench_shapes.SHAPES[name].size


def _multiple(name: str) -> int:
    import bench_shapes

    family = bench_shapes.SHAPES[name].family
    factor: int = family.codec.factor * 2 ** (family.backbone.levels - 1)
    return factor


def _batch(given: argparse.Namespace) -> int:
    import bench_shapes

    return int(given.batch or bench_shapes.SHAPES[given.shape].batch)


def _plain(given: argparse.Namespace) -> dict[str, object]:
    return {n: str(v) for n, v in vars(given).items()} | {
        "threads": os.environ.get("OMP_NUM_THREADS")
    }


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--shape", default="sd15", choices=("tiny", "small", "emoji", "sd15"))
    parser.add_argument("--size", type=int, help="pixels; left out, the shape's own")
    parser.add_argument("--batch", type=int, help="pictures a step; left out, the shape's own")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument(
        "--steps", type=int, default=10, help="of each process; the first is left out"
    )
    parser.add_argument("--rounds", type=int, default=1, help="processes of each side")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--checkpointing", action="store_true", help="both recompute activations")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="a JSON file with all numbers")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
