"""A folder of coloured shapes with captions, and configs that train on it in seconds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {"red": (220, 30, 30), "blue": (30, 60, 220), "green": (30, 160, 60)}
TRAINING: Mapping[str, Any] = {
    "batch_size": 4,
    "steps": 6,
    "learning_rate": 1e-3,
    "log_every": 3,
    "save_every": 1000.0,
}


def write_shapes(folder: Path, count: int = 24, side: int = 32) -> Path:
    """Circles and squares at changing places, each with its caption; some pictures are wide."""
    folder.mkdir(parents=True)
    for number in range(count):
        colour = list(COLOURS)[number % 3]
        shape = ("circle", "square")[number % 2]
        size = (side, side) if number % 4 else (side, side * 3 // 4)
        image = Image.new("RGB", size, (250, 250, 250 - number))
        x, y, r = 10 + number % 9, 10 + number % 4, 5 + number % 3
        pen = ImageDraw.Draw(image)
        draw = pen.ellipse if shape == "circle" else pen.rectangle
        draw((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
        image.save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"a {colour} {shape}")
    return folder


def autoencoder(data: str = "shapes") -> dict[str, Any]:
    return {
        "recipe": "autoencoder",
        "folder": "runs/autoencoder",
        "device": "cpu",
        "data": {"path": data, "size": 32, "held_out": 0.2},
        "autoencoder": {"latent_channels": 4, "widths": [8, 16], "layers": 1, "groups": 4},
        "critic": {"widths": [8, 16, 16], "groups": 4, "lead": 1, "ramp": 2},
        "training": {**TRAINING, "ema": ["power:0.1"], "validate_every": 6},
    }


def clip(data: str = "shapes") -> dict[str, Any]:
    tower = {"layers": 1, "width": 32, "heads": 2, "mlp_width": 32}
    return {
        "recipe": "clip",
        "folder": "runs/clip",
        "device": "cpu",
        "data": {"path": data, "size": 32, "held_out": 0.2},
        "clip": {
            "vocabulary_size": 540,
            "projection": 16,
            "text": tower,
            "vision": {**tower, "patch": 8},
        },
        "training": {**TRAINING, "validate_every": 6},
    }


def diffusion(data: str = "shapes") -> dict[str, Any]:
    return {
        "recipe": "diffusion",
        "folder": "runs/diffusion",
        "device": "cpu",
        "data": {"path": data, "size": 32, "held_out": 0.2},
        "model": {
            "autoencoder": "runs/autoencoder/model",
            "text": "runs/clip/model",
            "unet": {"channels": [16, 32], "depths": [[1], [1]], "heads": [2, 2], "groups": 8},
        },
        "previews": {"prompts": ["a red circle", "a blue square"], "steps": 2},
        "training": {**TRAINING, "ema": ["power:0.1", "classic:0.9"], "validate_every": 6},
    }


def write_config(path: Path, values: Mapping[str, Any]) -> Path:
    """The values as a TOML file."""
    path.write_text("".join(_lines(values, "")))
    return path


def _lines(values: Mapping[str, Any], prefix: str) -> list[str]:
    plain = {k: v for k, v in values.items() if not isinstance(v, Mapping) or _inline(v)}
    lines = [f"{name} = {_value(value)}\n" for name, value in plain.items()]
    for name, value in values.items():
        if name not in plain:
            lines += [f"\n[{prefix}{name}]\n", *_lines(value, f"{prefix}{name}.")]
    return lines


def _inline(value: Mapping[str, Any]) -> bool:
    return not value


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{}"
    return repr(value)
