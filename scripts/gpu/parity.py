#!/usr/bin/env python3
"""Compare a device with the CPU in float32: parts, then whole pictures, of random small models.

    python scripts/gpu/parity.py --device cuda --out parity.jsonl
    python scripts/gpu/parity.py --device cuda --engine recorded,fp8
    python scripts/gpu/parity.py --device cpu    # a dry run: bf16 and fp16 against fp32

One JSON line for each family, engine, part and type: the largest difference in standard deviations
of the CPU's float32 output; for pictures the largest and mean difference in levels of 255. Without
--engine the modules as they are, and the engines for GPUs; `fp8` rounds to eight bits, so it is far
from the rest. On a CPU, whose products of such numbers are PyTorch's own, `recorded` calls again
what a GPU would replay. Takes about a minute on a CPU for each engine. What the output file holds
is skipped, so an interrupted run goes on.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from safelight.benchmarks.geometry import random_model, small
from safelight.cli.benching import names
from safelight.engines import fp8, recorded
from safelight.engines.placement import DTYPES, resolve_device
from safelight.engines.table import EAGER, ENGINES, engined
from safelight.families import FAMILIES
from safelight.model import Model
from safelight.tasks.generate import generate
from safelight.tasks.picture import pixel_distance
from safelight.tasks.request import Request
from safelight.text.spec import Size

CHOSEN = ("sd15", "sd2-v", "sdxl", "ssd-1b", "tiny-sd")
SIDE = 128
USUAL = (EAGER, recorded.NAME, fp8.NAME)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--engine", default=",".join(USUAL), help="what computes it there; several with commas"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    device = resolve_device(given.device)
    engines = names(given.engine)
    for engine in engines:
        if engine not in ENGINES:
            parser.error(f"there is no engine {engine!r}; choose from {', '.join(ENGINES)}")
    done = held(given.out)
    for name, engine in ((name, engine) for engine in engines for name in CHOSEN):
        if (name, engine, str(device)) in done:
            continue
        text = "".join(json.dumps(row) + "\n" for row in rows(name, device, engine))
        sys.stdout.write(text)
        if given.out is not None:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(text)


def held(out: Path | None) -> set[tuple[str, str, str]]:
    """Family, engine and device of what the file holds."""
    if out is None or not out.exists():
        return set()
    lines = map(json.loads, out.read_text("utf-8").splitlines())
    return {(line["family"], line["engine"], line["device"]) for line in lines}


def rows(name: str, device: torch.device, engine: str) -> Iterator[dict[str, object]]:
    """What one family shows on the device, in every type that the device has."""
    family = small(FAMILIES[name])
    reference = random_model(family)
    told = parts(reference)
    (picture,) = generate(reference, request())
    for kind, dtype in DTYPES.items():
        model = computed(moved(random_model(family), device, dtype), engine)
        common = {"family": name, "device": str(device), "dtype": kind, "engine": engine}
        for part, output in parts(model).items():
            away = (output.cpu().float() - told[part]).abs().max() / told[part].std()
            yield {**common, "part": part, "largest": round(float(away), 6)}
        (drawn,) = generate(model, request())
        distance = pixel_distance(picture.pixels, drawn.pixels)
        assert distance is not None
        yield {**common, "part": "picture", **distance._asdict(), "warnings": list(drawn.warnings)}


def computed(model: Model, engine: str) -> Model:
    """The model by an engine; on a CPU, what of a GPU's engine can be done there.

    Raises RequestError for an engine that cannot run on this device.
    """
    if model.device.type == "cpu" and engine == recorded.NAME:
        runner = recorded.RecordedUNet(model.network.unet, recorder=Again)
        return replace(model, network=replace(model.network, runner=runner), engine=engine)
    if model.device.type == "cpu" and engine == fp8.NAME:
        return fp8.fp8(model)
    return engined(model, engine)


@dataclass
class Again:
    """Stands for a CUDA graph where there is none: the same call on the same memory once more."""

    work: Callable[[], Tensor]
    output: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.replay()

    def replay(self) -> None:
        self.output = self.work()


def request() -> Request:
    return Request(prompt="a red apple", width=SIDE, height=SIDE, steps=8, seed=1)


def moved(model: Model, device: torch.device, dtype: torch.dtype) -> Model:
    for module in (model.network.unet, model.codec.autoencoder, *model.text.encoders):
        assert isinstance(module, torch.nn.Module)
        module.to(device, dtype)
    return model


@torch.no_grad()
def parts(model: Model) -> dict[str, Tensor]:
    """The outputs of text encoders, U-Net and autoencoder on the same inputs, float32."""
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(2, model.codec.channels, 16, 16, generator=rng).to(model.device)
    images = torch.rand(1, 3, SIDE, SIDE, generator=rng).to(model.device) * 2 - 1
    condition = model.text.condition("a red apple", size=Size(SIDE, SIDE))
    time = torch.tensor([10.0, 900.0], device=model.device)
    return {
        "text": condition.context,
        "unet": model.network(latents, time, condition),
        "decode": model.codec.decode(latents),
        "encode": model.codec.encode(images).mode(),
    }


if __name__ == "__main__":
    main()
