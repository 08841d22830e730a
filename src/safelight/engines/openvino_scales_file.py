"""What was measured of a model for eight bits, kept on disk (`private_note`).

A note that is not about this network counts as none.
"""

import math
from collections.abc import Mapping

import torch
from torch import nn

from safelight.engines.openvino_attention import AttentionRounding
from safelight.engines.openvino_eight import Rounding, Scales
from safelight.engines.private_note import keep_note, note_of

FOLDER = "openvino"
MOST = 64  # notes, of some hundred kilobytes


def remembered(key: str, network: nn.Module) -> Scales | None:
    """What was kept under a key for a network; None if nothing sound was."""
    try:
        return _read(note_of(FOLDER, key), network)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


def kept(key: str, scales: Scales) -> None:
    """Keep what was measured, whole or not at all; where that cannot be, it is measured again."""
    roundings = list({id(one): one for one in scales.layers.values()}.values())
    numbers = {id(one): index for index, one in enumerate(roundings)}
    told = {
        "layers": {name: numbers[id(one)] for name, one in scales.layers.items()},
        "roundings": [
            {"low": one.low, "high": one.high, "factors": one.factors.tolist()} for one in roundings
        ],
        "attention": {
            name: [one.query, one.key, one.value, one.weight]
            for name, one in scales.attention.items()
        },
    }
    keep_note(FOLDER, key, told, MOST)


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
    attention = found["attention"]
    if not isinstance(attention, dict) or not attention.keys() <= modules.keys():
        raise TypeError("attention")
    return Scales(
        {name: roundings[index] for name, index in layers.items()},
        {name: _of_attention(one) for name, one in attention.items()},
    )


def _of_attention(found: list[object]) -> AttentionRounding:
    numbers = [number for number in found if isinstance(number, float)]
    if len(numbers) != len(found) or not all(0 < number < math.inf for number in numbers):
        raise ValueError("ranges of attention")
    return AttentionRounding(*numbers)


def _rounding(found: Mapping[str, object]) -> Rounding:
    low, high = found["low"], found["high"]
    if not isinstance(low, float) or not isinstance(high, float):
        raise TypeError("a range")
    factors = torch.tensor(found["factors"], dtype=torch.float32)
    sound = math.isfinite(low) and math.isfinite(high) and low <= 0.0 < high
    if not sound or factors.ndim != 1 or not bool(((factors > 0) & factors.isfinite()).all()):
        raise ValueError("a range or factors")
    return Rounding(factors, low, high)
