"""How much memory a drawing takes in a process of its own, and how near that was predicted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memory_models import many_layers
from safelight.checkpoints.save import save

pytestmark = pytest.mark.slow

CODE = """
import json, sys
from safelight.engines.budget_rates import peak_bytes, process_bytes
from safelight.tasks.budget_prediction import Setup, bytes_of
from safelight.tasks.generate import generate, settled
from safelight.tasks.loading import Models
from safelight.tasks.request import Request

settings = json.loads(sys.argv[1])
request = Request.parse({"prompt": "a red apple", "seed": 1, "steps": 1, **settings})
models = Models()
shape = models.peek(request)
(one,) = settled(request, shape)
base = process_bytes()
setup = Setup(request.dtype, "eager", request.offload, bool(one.tile_vae))
said = bytes_of(one, shape, setup, base=base)
del shape
(picture,) = generate(models.of(request), request)
print(json.dumps({"said": said, "peak": peak_bytes(), "base": base,
                  "sha256": picture.recipe.result.pixels_sha256}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "model.safetensors"
    save(many_layers(), path, "ldm", dtype=torch.float16)
    return path


def drawn(model: Path, **settings: object) -> dict[str, float]:
    given = json.dumps({"model": str(model), "width": 256, "height": 256, **settings})
    done = subprocess.run(
        [sys.executable, "-c", CODE, given], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak so")
def test_parts_that_go_take_no_memory_and_change_no_bit(model: Path) -> None:
    ways = {way: drawn(model, dtype="fp32", offload=way) for way in ("none", "parts", "sequential")}
    assert len({found["sha256"] for found in ways.values()}) == 1
    above = {way: found["peak"] - found["base"] for way, found in ways.items()}
    weights = 260e6
    assert above["parts"] < above["none"]
    assert above["sequential"] < above["none"] - 0.5 * weights


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak so")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("offload", ["none", "parts", "sequential"])
def test_the_peak_is_not_far_from_what_was_predicted(model: Path, dtype: str, offload: str) -> None:
    found = drawn(model, dtype=dtype, offload=offload)
    assert 0.75 * found["said"] < found["peak"] < 1.15 * found["said"]
