"""The blocks of a U-Net by the words that people weigh adapters with: BASE, IN01, M00, OUT05.

The words number the blocks of the original code, `input_blocks`, `middle_block` and
`output_blocks`; BASE is everything else, the text encoders with it. As in the LoRA Block Weight
extension of A1111.
"""

from collections.abc import Mapping, Sequence

from torch import nn

from safelight.adapters.adapter import UNET
from safelight.adapters.sites import Layer
from safelight.errors import RequestError
from safelight.printable import shown

BASE, MIDDLE = "BASE", "M00"
_ALSO = {"MID": MIDDLE, "MID00": MIDDLE}
_NUMBERED = frozenset({"conv_in", "down_blocks", "mid_block", "up_blocks"})


def block_paths(parts: Mapping[str, nn.Module]) -> dict[str, tuple[str, ...]]:
    """Where the layers of each block lie: word -> starts of paths, in the order of the words.

    BASE first, then IN00 to the last, M00, and OUT00 to the last. Starts are those that
    `Strengths.blocks` takes. Raises RequestError for a model without a U-Net.
    """
    network = parts.get(UNET)
    if network is None:
        raise RequestError("blocks are those of a U-Net, and this model has none")
    base = [part for part in parts if part != UNET]
    base += [name for name, child in network.named_children() if _is_other(name, child)]
    inputs = [("conv_in",)] + [
        paths
        for path, level in _levels(network, "down_blocks")
        for paths in _going_down(path, level)
    ]
    outputs = [
        paths for path, level in _levels(network, "up_blocks") for paths in _going_up(path, level)
    ]
    middle = ("mid_block",) if _children(network, "mid_block") else ()
    return {
        BASE: tuple(base),
        **{f"IN{n:02}": paths for n, paths in enumerate(inputs)},
        MIDDLE: middle,
        **{f"OUT{n:02}": paths for n, paths in enumerate(outputs)},
    }


def block_weights(
    parts: Mapping[str, nn.Module], weights: Mapping[str, float] | Sequence[float]
) -> dict[str, float]:
    """Weights by word, by the start of a path, or as a list, as `Strengths.blocks` takes them.

    A list is in the order of the words: of all blocks, or of BASE and those blocks that have
    attention (26 or 17 numbers for SD 1 and 2, 20 or 12 for SDXL). Raises RequestError for another
    length, and for a word that is none.
    """
    paths = block_paths(parts)
    named = weights if isinstance(weights, Mapping) else _listed(weights, paths, parts)
    made: dict[str, float] = {}
    for word, weight in named.items():
        upper = word.upper()
        starts = paths.get(_ALSO.get(upper, upper))
        if starts is None and not _is_path(word, parts):
            raise RequestError(
                f"{shown(word)} is no block of this model; name one of {_said(list(paths))}, or "
                f"the start of a path such as 'down_blocks.1'"
            )
        made.update(dict.fromkeys((word,) if starts is None else starts, weight))
    return made


def _listed(
    weights: Sequence[float], paths: Mapping[str, tuple[str, ...]], parts: Mapping[str, nn.Module]
) -> dict[str, float]:
    network = parts[UNET]
    looking = [
        word
        for word, starts in paths.items()
        if word == BASE or any(_looks(network, start) for start in starts)
    ]
    for words in (list(paths), looking):
        if len(words) == len(weights):
            return dict(zip(words, weights, strict=True))
    raise RequestError(
        f"{len(weights)} block weights were given; this model takes {len(paths)} (all blocks: "
        f"{_said(list(paths))}) or {len(looking)} (those with attention)"
    )


def _looks(network: nn.Module, start: str) -> bool:
    """Whether there is attention under this path."""
    within = start + "."
    return any(name.startswith(within) and ".attn" in name for name, _ in network.named_modules())


def _is_other(name: str, child: nn.Module) -> bool:
    return name not in _NUMBERED and any(isinstance(module, Layer) for module in child.modules())


def _levels(network: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    return [(f"{name}.{n}", level) for n, level in _children(network, name)]


def _children(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    child = getattr(module, name, None)
    return list(child.named_children()) if isinstance(child, nn.Module) else []


def _going_down(path: str, level: nn.Module) -> list[tuple[str, ...]]:
    """A block for each residual block with its attention, and one for the way down."""
    blocks = _pairs(path, level)
    if _children(level, "downsamplers"):
        blocks.append((f"{path}.downsamplers",))
    return blocks


def _going_up(path: str, level: nn.Module) -> list[tuple[str, ...]]:
    """A block for each residual block with its attention; the last has the way up, too."""
    blocks = _pairs(path, level)
    if _children(level, "upsamplers"):
        blocks[-1] = (*blocks[-1], f"{path}.upsamplers")
    return blocks


def _pairs(path: str, level: nn.Module) -> list[tuple[str, ...]]:
    looking = {name for name, _ in _children(level, "attentions")}
    return [
        (f"{path}.resnets.{n}", *([f"{path}.attentions.{n}"] if n in looking else []))
        for n, _ in _children(level, "resnets")
    ]


def _is_path(word: str, parts: Mapping[str, nn.Module]) -> bool:
    return bool(word) and any(
        name == word or f"{part}.{name}".rstrip(".") == word
        for part, network in parts.items()
        for name, _ in network.named_modules()
    )


def _said(words: list[str]) -> str:
    inputs = [w for w in words if w.startswith("IN")]
    outputs = [w for w in words if w.startswith("OUT")]
    return f"{BASE}, {inputs[0]} to {inputs[-1]}, {MIDDLE}, {outputs[0]} to {outputs[-1]}"
