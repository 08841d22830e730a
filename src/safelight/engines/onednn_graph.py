"""Products and convolutions of an exported network by oneDNN, with weights that it has packed.

PyTorch's compiler packs weights only if they are constants of the graph; then they lie in the
compiled file, and a changed weight needs a new compilation. Here the graph is given the weights.
Where they are packed, that is done when they are loaded, for the sizes of the compiled call: it
saves oneDNN from reordering them in every call, which counts where a map has few places.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

Packing = dict[str, Any]
"""How to pack a weight: {"linear": rows} or {"conv": [padding, stride, dilation, groups, input]}.
"""


def by_onednn(program: ExportedProgram) -> dict[str, Packing]:
    """Let oneDNN compute the program's products and convolutions; changes the program.

    Returns how to pack which weight, by its name in the program's module. A weight that is used for
    two different sizes is left as it is.
    """
    inputs = program.graph_signature.inputs_to_parameters
    packings: dict[str, Packing | None] = {}
    for node in list(program.graph.nodes):
        if node.op != "call_function":
            continue
        replaced = _replaced(node)
        if replaced is None:
            continue
        weight, target, arguments, packing = replaced
        if not isinstance(weight, Node) or weight.name not in inputs:
            continue  # made in the graph, as that of a LoRA in a slot
        name = inputs[weight.name]
        packings[name] = packing if packings.get(name, packing) == packing else None
        with program.graph.inserting_before(node):
            new = program.graph.call_function(target, arguments)
        new.meta.update(node.meta)
        node.replace_all_uses_with(new)
        program.graph.erase_node(node)
    program.graph_module.recompile()
    return {name: packing for name, packing in packings.items() if packing is not None}


def packed(weight: Tensor, packing: Packing) -> Tensor:
    """The weight in the form that oneDNN computes with: opaque, and of no other use."""
    ops = torch.ops.mkldnn
    made: Tensor
    if "linear" in packing:
        made = ops._reorder_linear_weight(weight, packing["linear"])
    else:
        padding, stride, dilation, groups, size = packing["conv"]
        made = ops._reorder_convolution_weight(weight, padding, stride, dilation, groups, size)
    return made


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this PyTorch and this processor do so for numbers of a type."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    ops = torch.ops.mkldnn
    if not all(hasattr(ops, name) for name in NEEDED):
        return False
    if dtype == torch.bfloat16:
        return bool(ops._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(ops._is_mkldnn_fp16_supported())
    return dtype == torch.float32


NEEDED = (
    "_linear_pointwise",
    "_convolution_pointwise",
    "_reorder_linear_weight",
    "_reorder_convolution_weight",
)


def _replaced(node: Node) -> tuple[object, Any, tuple[Any, ...], Packing] | None:
    """Weight, oneDNN's operator, its arguments and the packing, in place of a node; or None."""
    ops = torch.ops.mkldnn
    if node.target is torch.ops.aten.linear.default:
        x, weight, bias = _first(node, 3)
        rows = math.prod(_shape(x)[:-1])
        return (
            weight,
            ops._linear_pointwise.default,
            (x, weight, bias, "none", [], ""),
            {"linear": rows},
        )
    if node.target is torch.ops.aten.conv2d.default:
        x, weight, bias, stride, padding, dilation, groups = _first(node, 7)
        where = [_pair(padding, 0), _pair(stride, 1), _pair(dilation, 1), groups or 1]
        return (
            weight,
            ops._convolution_pointwise.default,
            (x, weight, bias, *where, "none", [], ""),
            {"conv": [*where, list(_shape(x))]},
        )
    return None


def _first(node: Node, count: int) -> tuple[Any, ...]:
    return (*node.args, *([None] * count))[:count]


def _shape(node: Any) -> Sequence[int]:
    shape: Sequence[int] = node.meta["val"].shape
    return shape


def _pair(value: Any, default: int) -> list[int]:
    if value is None:
        return [default, default]
    return [value, value] if isinstance(value, int) else list(value)
