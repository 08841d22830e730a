"""The command line as a user runs it, on models a thousand times smaller."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from models_tiny import randomised
from safelight.families import SD15
from safelight.model import Model
from safelight.models.autoencoder import AutoencoderConfig
from safelight.models.backbone import Backbone
from safelight.models.clip import ClipText, ClipTextConfig
from safelight.models.unet import UNet, UNetConfig
from safelight.text.conditioner import Conditioner
from safelight.text.spec import TextRole, TextSpec

SMALL = ("--size", "64x64", "--steps", "2", "--seed", "5")


@dataclass(frozen=True)
class Ran:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def json(self) -> list[dict[str, object]]:
        """The JSON objects that it printed, one a line."""
        return [json.loads(line) for line in self.lines]

    def error(self) -> str:
        """Its only line on stderr, which is one without a traceback; nothing was printed."""
        assert self.out == "", self.out
        assert self.err.endswith("\n") and self.err.count("\n") == 1, self.err
        assert self.err.startswith("error: ") and "Traceback" not in self.err
        assert not self.err.startswith("error: unexpected "), self.err
        return self.err.removeprefix("error: ").rstrip("\n")


Cli = Callable[..., Ran]


def pixels(path: Path | str) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def files(folder: Path) -> list[str]:
    """Every file below a folder, hidden and temporary ones too."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "safelight", *map(str, args)]


def process(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    """A real run in a process of its own, with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(  # type: ignore[call-overload]
        command(*args), capture_output=True, text=True, timeout=120, env=environment, **options
    )


def tiny_model(seed: int = 0) -> Model:
    """A model in the manner of SD 1.5, small enough to be read and drawn with in 0.1 s."""
    text = TextSpec((TextRole(ClipTextConfig(layers=2, width=64, heads=1, mlp_width=128)),))
    coder = AutoencoderConfig(widths=(8, 8, 8, 16), layers=1, groups=4)
    backbone = UNetConfig(
        channels=(16, 32),
        depths=((1,), (1,)),
        heads=(2, 2),
        context_width=64,
        groups=8,
    )
    codec = replace(SD15.codec, autoencoder=coder)
    family = replace(
        SD15, name="tiny", label="Tiny", backbone=backbone, text=text, codec=codec, native_size=64
    )
    tower = ClipText(text.roles[0].encoder)
    model = Model(
        family=family,
        text=Conditioner(text, [tower]),
        network=Backbone(UNet(backbone)),
        codec=codec.build(),
        process=family.process.build(),
    )
    for number, module in enumerate((tower, model.network.unet, model.codec.autoencoder)):
        assert isinstance(module, nn.Module)
        randomised(module, 3 * seed + number)
    return model
