"""Attention over many tokens, in an exported network, by the kernel that eager uses.

A compiler sees PyTorch's own attention, which on most CPUs is slower than ours (`cpu_attention`).
Ours is put in as one operator, called back from compiled code.

Shapes: B batch, N query tokens, M key tokens, d width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from safelight.models import cpu_attention
from safelight.models.cpu_product import READY

LIBRARY = torch.library.Library("safelight", "FRAGMENT")
LIBRARY.define("attention(Tensor query, Tensor key, Tensor value) -> Tensor")


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, heads, N, d), (B, heads, M, d) twice -> (B, heads, N, d), laid out (B, N, heads, d)."""
    heads = query.shape[1]
    q, k, v = (x.transpose(1, 2).flatten(2) for x in (query, key, value))
    y = cpu_attention.blocked(q, k, v, heads)  # (B, N, heads * d)
    return y.view(*y.shape[:2], heads, -1).transpose(1, 2)


def _shape_of_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    batch, heads, tokens, width = query.shape
    made: Tensor = query.new_empty(batch, tokens, heads, width)
    return made.transpose(1, 2)


LIBRARY.impl("attention", _attention, "CPU")
torch.library.register_fake("safelight::attention", _shape_of_attention, lib=LIBRARY)


def by_blocks(program: ExportedProgram) -> None:
    """Let our kernel attend where it is the faster one; changes the program."""
    for node in list(program.graph.nodes):
        if node.target is not torch.ops.aten.scaled_dot_product_attention.default:
            continue
        if not _served(node):
            continue
        with program.graph.inserting_before(node):
            new = program.graph.call_function(torch.ops.safelight.attention.default, node.args[:3])
        new.meta.update(node.meta)
        node.replace_all_uses_with(new)
        program.graph.erase_node(node)
    program.graph_module.recompile()


def _served(node: Node) -> bool:
    """Whether this is plain attention of a size and type that ours is for."""
    if not READY or len(node.args) > 3 or _settings(node):
        return False
    query, key = (_value(argument) for argument in node.args[:2])
    narrow = query.dtype == torch.bfloat16
    if query.dtype != torch.float32 and (not narrow or torch.cpu._is_amx_tile_supported()):
        return False
    work: int = query.shape[2] * query.shape[3] * key.shape[2]
    return work >= cpu_attention.FEWEST_PRODUCTS


def _settings(node: Node) -> bool:
    return any(value not in (None, False, 0, 0.0) for value in node.kwargs.values())


def _value(node: Any) -> Tensor:
    value: Tensor = node.meta["val"]
    return value
