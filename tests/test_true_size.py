"""A model of Stable Diffusion 1.5's true size, with random weights, from file to picture."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
WEIGHTS = 2.1325e9  # bytes of SD 1.5 in 16 bits, the unused tables not counted
ROOM = 0.5e9

PEAK = """
import json, re, sys, torch
import safelight.text.conditioner, safelight.checkpoints.load as loading
def rss(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = rss("VmRSS")
model = loading.load(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
print(json.dumps({"peak": rss("VmHWM") - before, "family": model.family.name}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("true-size") / "sd15.safetensors"
    script = ROOT / "scripts" / "random_model.py"
    subprocess.run([sys.executable, script, "sd15", path], check=True, capture_output=True)
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("dtype", "size"), [("float16", 1), ("bfloat16", 1), ("float32", 2)])
def test_loading_peaks_at_the_weights_and_half_a_gigabyte(
    checkpoint: Path, dtype: str, size: int
) -> None:
    command = [sys.executable, "-c", PEAK, str(checkpoint), dtype]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert done["family"] == "sd15"
    assert done["peak"] <= size * WEIGHTS + ROOM


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_steps_of_the_true_network_are_those_of_diffusers(
    checkpoint: Path, tmp_path: Path
) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    folder, out = tmp_path / "folder", tmp_path / "out"
    safelight = [sys.executable, "-m", "safelight"]
    subprocess.run(
        [*safelight, "convert", checkpoint, folder, "--layout", "diffusers", "--dtype", "fp32"],
        check=True,
    )
    settings = ["--size", "256x256", "--steps", "2", "--seed", "5", "--sampler", "Euler"]
    settings += ["--schedule", "normal", "--start", "diffusers", "--cfg", "7", "-n", "blurry"]
    command = [*safelight, "generate", "a red apple", "-m", checkpoint, "-o", out, *settings]
    done = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    from PIL import Image

    ours = np.asarray(Image.open(json.loads(done.stdout)["path"])).astype(int)

    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="linspace"
    )
    import torch

    theirs = pipeline(
        "a red apple",
        negative_prompt="blurry",
        width=256,
        height=256,
        num_inference_steps=2,
        guidance_scale=7.0,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="pil",
    ).images[0]
    assert np.abs(ours - np.asarray(theirs).astype(int)).max() <= 1
    assert ours.std() > 5
