#!/usr/bin/env python3
"""Write a model of any family with weights at random: the right shapes, and nothing learned.

For trying loaders, speed and memory at true sizes without published weights:

    python scripts/random_model.py sd15 sd15-random.safetensors
    python scripts/random_model.py sdxl sdxl-random --layout diffusers --dtype bf16
    python scripts/random_model.py sd15 small.safetensors --small

`--small` keeps the structure and makes everything narrow. The same family and seed give the same
weights.
"""

import argparse
from pathlib import Path

from safelight.benchmarks.geometry import random_model, small
from safelight.checkpoints.save import save
from safelight.engines.placement import DTYPES
from safelight.families import FAMILIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("path", type=Path)
    parser.add_argument("--layout", choices=("ldm", "diffusers"), default="ldm")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    family = FAMILIES[given.family]
    model = random_model(small(family) if given.small else family, given.seed)
    save(model, given.path, given.layout, dtype=DTYPES[given.dtype])
    print(f"{given.path}: {family.label}, weights at random (seed {given.seed})")


if __name__ == "__main__":
    main()
