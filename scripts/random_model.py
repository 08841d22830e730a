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
from dataclasses import replace
from pathlib import Path

import torch

from safelight.checkpoints.save import save
from safelight.engines.placement import DTYPES
from safelight.families import FAMILIES, Family
from safelight.model import Model
from safelight.models.autoencoder import AutoencoderConfig
from safelight.models.backbone import Backbone
from safelight.models.clip import ClipText
from safelight.models.unet import UNet
from safelight.text.conditioner import Conditioner


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


def random_model(family: Family, seed: int = 0) -> Model:
    """A model in float32 whose every weight is drawn by torch's own initialisation."""
    torch.manual_seed(seed)
    return Model(
        family=family,
        text=Conditioner(family.text, [ClipText(role.encoder) for role in family.text.roles]),
        network=Backbone(UNet(family.backbone)),
        codec=family.codec.build(),
        process=family.process.build(),
    )


def small(family: Family) -> Family:
    """The same structure with every width divided: a file of a few megabytes."""
    backbone, coder = family.backbone, family.codec.autoencoder
    assert isinstance(coder, AutoencoderConfig)
    texts = tuple(
        replace(role, encoder=replace(role.encoder, layers=4, width=64, heads=1, mlp_width=128))
        for role in family.text.roles
    )
    factor = 10 if backbone.channels[0] % 10 == 0 else 8
    return replace(
        family,
        name=f"small-{family.name}",
        backbone=replace(
            backbone,
            channels=tuple(c // factor for c in backbone.channels),
            heads=tuple(2 if h == 8 else max(1, h // 5) for h in backbone.heads),
            context_width=64 * len(texts),
            groups=8,
        ),
        text=replace(family.text, roles=texts),
        codec=replace(
            family.codec,
            autoencoder=replace(coder, widths=tuple(w // 8 for w in coder.widths), groups=8),
        ),
        native_size=128,
    )


if __name__ == "__main__":
    main()
