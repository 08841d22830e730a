"""What was measured of a model for eight bits, kept on disk: numbers and names, never code.

The file is JSON in a folder that is this user's alone. Its first line is the hash of the rest. A
file that is damaged, too large, of another network or open to others counts as none.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from safelight.engines.openvino_eight import Rounding, Scales
from safelight.engines.private_folder import check_private, digest, private_folder
from safelight.errors import FileError, OutputError
from safelight.writing import write_whole

FOLDER = "openvino"
LARGEST = 64 * 2**20  # bytes


def remembered(key: str, network: nn.Module) -> Scales | None:
    """What was kept under a key for a network; None if nothing sound was."""
    try:
        path = _path(key)
        check_private(path)
        if path.stat().st_size > LARGEST:
            return None
        noted, _, data = path.read_bytes().partition(b"\n")
    except (OSError, FileError, OutputError):
        return None
    if noted != digest(data).encode():
        return None
    try:
        return _read(json.loads(data), network)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def kept(key: str, scales: Scales) -> None:
    """Keep what was measured, whole or not at all; where that cannot be, it is measured again."""
    roundings = list({id(one): one for one in scales.layers.values()}.values())
    numbers = {id(one): index for index, one in enumerate(roundings)}
    data = json.dumps(
        {
            "layers": {name: numbers[id(one)] for name, one in scales.layers.items()},
            "roundings": [
                {"low": one.low, "high": one.high, "factors": one.factors.tolist()}
                for one in roundings
            ],
        }
    ).encode()
    try:
        path = _path(key)
        write_whole(path, digest(data).encode() + b"\n" + data)
        path.chmod(0o600)
    except (OSError, FileError, OutputError):
        return


def _path(key: str) -> Path:
    return private_folder(FOLDER) / f"{key}.json"


def _read(found: Mapping[str, object], network: nn.Module) -> Scales:
    """Raises ValueError, TypeError or KeyError for anything but scales of this network."""
    layers, listed = found["layers"], found["roundings"]
    if not isinstance(layers, dict) or not isinstance(listed, list):
        raise TypeError("layers and roundings")
    roundings = [_rounding(one) for one in listed]
    modules = dict(network.named_modules())
    for name, index in layers.items():
        if type(index) is not int or index < 0:
            raise TypeError("the number of a rounding")
        weight = modules[name].weight
        if not isinstance(weight, torch.Tensor) or weight.ndim < 2:
            raise TypeError("a layer that multiplies")
        if weight.shape[1] != len(roundings[index].factors):
            raise ValueError("factors for another layer")
    return Scales({name: roundings[index] for name, index in layers.items()})


def _rounding(found: Mapping[str, object]) -> Rounding:
    low, high = found["low"], found["high"]
    if not isinstance(low, float) or not isinstance(high, float):
        raise TypeError("a range")
    factors = torch.tensor(found["factors"], dtype=torch.float32)
    sound = math.isfinite(low) and math.isfinite(high) and low <= 0.0 < high
    if not sound or factors.ndim != 1 or not bool(((factors > 0) & factors.isfinite()).all()):
        raise ValueError("a range or factors")
    return Rounding(factors, low, high)
