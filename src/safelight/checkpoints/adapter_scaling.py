"""Strengths of changes that a file states beside its tensors, as PEFT and Diffusers do.

Diffusers puts PEFT's settings into the safetensors metadata, each under the name of its part
("unet.lora_alpha"); PEFT puts them into `adapter_config.json` beside the file.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from safelight.checkpoints.adapter_names import ANY
from safelight.checkpoints.folders import read_json
from safelight.checkpoints.weight_file import WeightFile
from safelight.errors import CheckpointError
from safelight.printable import shown

KEY = "lora_adapter_metadata"
CONFIG = "adapter_config.json"
# PEFT reads a pattern as a regular expression; one from a file is compared as a plain text.
_ANCHORS = re.compile(r"^\^|\$$|\\(?=\.)")

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Scaling:
    """PEFT's settings of each part; those under "" are of every part. source names their place."""

    settings: Mapping[str, Settings]
    source: str

    def settings_of(self, part: str) -> Settings:
        """PEFT's settings of a part; empty if there are none."""
        return self.settings.get(part, self.settings.get("", {}))

    def of(self, part: str, path: str, rank: int | None) -> float | None:
        """What a change of this rank is multiplied by; None if nothing is stated.

        Raises CheckpointError for numbers that make no strength.
        """
        stated = self.settings_of(part)
        usual = "lora_alpha" if "lora_alpha" in stated else "alpha"
        alpha = _for_path(stated.get("alpha_pattern"), path, stated.get(usual))
        width = rank or _for_path(stated.get("rank_pattern"), path, stated.get("r"))
        if alpha is None or width is None:
            return None
        over = _number(self.source, "r", width)
        if over <= 0:
            raise CheckpointError(f"{self.source}: r is {shown(width)}; expected 1 or more")
        whole = _number(self.source, usual, alpha)
        return whole / (math.sqrt(over) if stated.get("use_rslora") is True else over)


NOTHING = Scaling({}, "")


def scaling_of(file: WeightFile) -> Scaling:
    """What the file's metadata or the config beside it says.

    Raises FileError or CheckpointError if that cannot be read.
    """
    if KEY in file.metadata:
        return _from_metadata(file)
    config = file.path.with_name(CONFIG)
    if file.path.stem.startswith("adapter_model") and config.is_file():
        return Scaling({"": read_json(config)}, shown(config))
    return NOTHING


def _from_metadata(file: WeightFile) -> Scaling:
    source = f"{shown(file.path)}, {KEY}"
    try:
        values = json.loads(file.metadata[KEY])
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(f"{source} is no JSON object; save the file again without it")
    settings: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        part, dot, inner = name.partition(".")
        if dot and part in ANY:
            settings.setdefault(part, {})[inner] = value
        else:
            settings.setdefault("", {})[name] = value
    return Scaling(settings, source)


def _for_path(patterns: object, path: str, usual: object) -> object:
    """The value of the first pattern that this layer's path ends on."""
    if isinstance(patterns, dict):
        for pattern, value in patterns.items():
            plain = _ANCHORS.sub("", pattern)
            if path == plain or path.endswith(f".{plain}"):
                return value
    return usual


def _number(source: str, name: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9:
        return float(value)
    raise CheckpointError(f"{source}: {name} is {shown(value)}; expected a number below 1e9")
