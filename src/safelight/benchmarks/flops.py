"""How many floating-point operations a work has, by kind: counted on shapes, nothing is computed.

Two for a multiply-add, of matrix products, convolutions and attention as the network is written;
an engine that saves some of them still did this work, so its rate may exceed the machine's peak.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from safelight.benchmarks.geometry import weightless
from safelight.benchmarks.peers.profiling import kind_of
from safelight.families import Family
from safelight.model import Model
from safelight.models.autoencoder import Autoencoder

COUNTED = ("step", "decode", "encode", "overhead")


def operations(
    family: Family, work: str, size: tuple[int, int], *, batch: int, guided: bool
) -> dict[str, int]:
    """FLOP of one call of a work by kind (convolution, linear, attention); empty if not counted.

    size: (width, height) in pixels.
    """
    if work not in COUNTED:
        return {}
    call = _call(weightless(family), work, size, batch, guided)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    found: dict[str, int] = {}
    for operator, count in counter.get_flop_counts().get("Global", {}).items():
        kind = kind_of(str(operator).removeprefix("aten."))
        found[kind] = found.get(kind, 0) + int(count)
    return found


def _call(
    model: Model, work: str, size: tuple[int, int], batch: int, guided: bool
) -> Callable[[], Tensor]:
    family, coder = model.family, model.codec.autoencoder
    assert isinstance(coder, Autoencoder)
    width, height = size
    h, w = height // family.codec.factor, width // family.codec.factor
    with torch.device("meta"):
        if work == "decode":
            latents = torch.empty(batch, family.codec.channels, h, w)
            return lambda: coder.decode(latents)
        if work == "encode":
            images = torch.empty(batch, 3, height, width)
            return lambda: coder.moments(images)
        config, rows = family.backbone, 2 * batch if guided else batch
        x = torch.empty(rows, config.in_channels, h, w)
        context, time = torch.empty(rows, 77, config.context_width), torch.empty(rows)
        vector = None if config.vector_width is None else torch.empty(rows, config.vector_width)
    return lambda: model.network.unet(x, time, context, vector)
