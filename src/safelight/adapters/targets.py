"""Which layers of a network are taught: by words for the usual choices, or by patterns of paths."""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType

from torch import nn

from safelight.adapters.sites import Layer
from safelight.errors import RequestError
from safelight.models.layers import Conv2d, GroupNorm, LayerNorm, Linear
from safelight.printable import shown

_PROJECTION = re.compile(r"\.(to_[qkv]|to_out\.0|[qkv]_proj|out_proj)$")
_CROSS = re.compile(r"\.attn2\.(to_[qkv]|to_out\.0)$")
_TRANSFORMER = re.compile(r"(^|\.)(transformer_blocks|attentions|encoder\.layers)\.")


def _is_matrix(layer: Layer) -> bool:
    return isinstance(layer, (Linear, Conv2d))


WORDS: Mapping[str, Callable[[str, Layer], bool]] = MappingProxyType(
    {
        "attention": lambda path, layer: _is_matrix(layer) and bool(_PROJECTION.search(path)),
        "cross-attention": lambda path, layer: _is_matrix(layer) and bool(_CROSS.search(path)),
        "transformer": lambda path, layer: (
            _is_matrix(layer) and bool(_TRANSFORMER.search(f"{path}."))
        ),
        "convolutions": lambda path, layer: (
            isinstance(layer, Conv2d) and not _TRANSFORMER.search(f"{path}.")
        ),
        "all": lambda path, layer: _is_matrix(layer),
        "norms": lambda path, layer: isinstance(layer, (GroupNorm, LayerNorm)),
    }
)
"""What a word chooses.

attention: queries, keys, values and outputs, as Diffusers' scripts do. cross-attention: those that
look at the text. transformer: every matrix of the transformers, with the projections into and out
of them, as kohya does. convolutions: those outside of the transformers. all: every matrix and
convolution. norms: the weights of norms, which are learned as differences.
"""


def targets(network: nn.Module, chosen: Sequence[str]) -> list[str]:
    """The paths of the layers that any of these words or patterns chooses, in their order.

    A word is one of `WORDS`; anything else is a pattern of a path with * and ?, such as
    "up_blocks.*.attn2.to_?". Raises RequestError if one chooses nothing.
    """
    layers = {p: layer for p, layer in network.named_modules() if isinstance(layer, Layer)}
    found: set[str] = set()
    for word in chosen:
        rule = WORDS.get(word)
        hits = {
            path
            for path, layer in layers.items()
            if (rule(path, layer) if rule else fnmatchcase(path, word))
        }
        if not hits:
            raise RequestError(
                f"no layer is chosen by {shown(word)}; name a pattern of paths, such as "
                f"'up_blocks.*.attn2.to_?', or one of {', '.join(WORDS)}"
            )
        found |= hits
    return [path for path in layers if path in found]
