"""How much memory a benchmark will need, from sizes alone: told before anything is built."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from torch import nn

from safelight.benchmarks.geometry import weightless
from safelight.errors import RequestError
from safelight.families import Family
from safelight.models.autoencoder import AutoencoderConfig

ITEM = {"fp32": 4, "bf16": 2, "fp16": 2}
PROCESS = 0.6e9  # bytes of an interpreter with PyTorch and a library of models
# How often a way to compute holds the weights while it is made ready: compilers keep what they
# folded beside what they were given.
COPIES = {"eager": 1.2, "compiled": 2.2, "openvino": 2.2, "sdcpp": 1.2}
LEARNING = 4  # weights, gradients and both moments of AdamW, in float32
MAPS = 4  # of the decoder's widest feature maps that are alive together, after it was upsampled


@dataclass(frozen=True)
class Need:
    """One contender's demand. how: a key of COPIES; others count as "compiled".

    learning: whether the whole U-Net learns. part: the only part that is there ("unet" or "vae").
    """

    how: str
    precision: str
    learning: bool = False
    part: str | None = None


def parameters(family: Family) -> int:
    """Weights of all parts of a model."""
    return sum(_counts(family))


def unet_parameters(family: Family) -> int:
    """Weights of the U-Net."""
    return _counts(family)[0]


@cache
def _counts(family: Family) -> tuple[int, ...]:
    """Weights of the U-Net, the autoencoder and the text encoders."""
    model = weightless(family)
    coder = model.codec.autoencoder
    assert isinstance(coder, nn.Module)
    parts = (model.network.unet, coder, *model.text.encoders)
    return tuple(sum(p.numel() for p in part.parameters()) for part in parts)


def needed(family: Family, need: Need, pixels: int, batch: int) -> float:
    """Bytes that one contender takes, roughly: weights, and the largest maps of the decoder."""
    item = ITEM.get(need.precision, 4)
    unet, coder, *_ = _counts(family)
    count = {"unet": unet, "vae": coder, None: parameters(family)}[need.part]
    weights = count * item * COPIES.get(need.how, COPIES["compiled"])
    if need.learning:
        weights += unet_parameters(family) * ITEM["fp32"] * LEARNING
    config = family.codec.autoencoder
    width = 2 * config.widths[0] if isinstance(config, AutoencoderConfig) else 64
    return PROCESS + weights + MAPS * width * pixels * batch * item


def check_memory(
    family: Family,
    groups: Iterable[Iterable[Need]],
    pixels: int,
    batch: int,
    available: int | None,
) -> None:
    """Raise RequestError if contenders that live at the same time need more than there is.

    groups: contenders that take turns, group by group. available: bytes; None checks nothing.
    """
    building = parameters(family) * ITEM["fp32"] + PROCESS
    most = max((sum(needed(family, n, pixels, batch) for n in g) for g in groups), default=0.0)
    if available is not None and max(most, building) > available:
        raise RequestError(
            f"this will need about {max(most, building) / 1e9:.1f} GB of memory at once, and "
            f"{available / 1e9:.1f} GB are available; name fewer engines, precisions or peers, a "
            "smaller size or geometry, or try all the same with --force"
        )
