#!/usr/bin/env python3
"""Compare a device with the CPU in float32: parts, then whole pictures, of random small models.

    python scripts/gpu/parity.py --device cuda --out parity.jsonl
    python scripts/gpu/parity.py --device cuda --engine recorded
    python scripts/gpu/parity.py --device cpu    # a dry run: bf16 and fp16 against fp32

One JSON line for each family, part and type: the largest difference in standard deviations of the
CPU's float32 output; for pictures the largest and mean difference in levels of 255. Takes about a
minute on a CPU. Families already in the output file are skipped, so an interrupted run goes on.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from safelight.benchmarks.geometry import random_model, small
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--engine", default=EAGER, choices=ENGINES, help="what computes it there")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    device = resolve_device(given.device)
    done = set()
    if given.out is not None and given.out.exists():
        done = {json.loads(line)["family"] for line in given.out.read_text().splitlines()}
    for name in CHOSEN:
        if name in done:
            continue
        text = "".join(json.dumps(row) + "\n" for row in rows(name, device, given.engine))
        sys.stdout.write(text)
        if given.out is not None:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(text)


def rows(name: str, device: torch.device, engine: str) -> Iterator[dict[str, object]]:
    """What one family shows on the device, in every type that the device has."""
    family = small(FAMILIES[name])
    reference = random_model(family)
    told = parts(reference)
    (picture,) = generate(reference, request())
    for kind, dtype in DTYPES.items():
        model = engined(moved(random_model(family), device, dtype), engine)
        common = {"family": name, "device": str(device), "dtype": kind, "engine": engine}
        for part, output in parts(model).items():
            away = (output.cpu().float() - told[part]).abs().max() / told[part].std()
            yield {**common, "part": part, "largest": round(float(away), 6)}
        (drawn,) = generate(model, request())
        distance = pixel_distance(picture.pixels, drawn.pixels)
        assert distance is not None
        yield {**common, "part": "picture", **distance._asdict(), "warnings": list(drawn.warnings)}


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
