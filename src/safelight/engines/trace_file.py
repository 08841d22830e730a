"""A trace as plain data, and back: names of operators, numbers and names of nodes.

Read back, a node can be one of PyTorch's own operators that compute with tensors, or take an item
of a list, and nothing else.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

KINDS: Mapping[str, type] = MappingProxyType(
    {
        "dtype": torch.dtype,
        "layout": torch.layout,
        "memory_format": torch.memory_format,
    }
)
GETITEM = "getitem"
OPERATOR = re.compile(r"aten\.(\w+)\.(\w+)")
BARRED = ("file", "storage", "cuda", "record")  # no arithmetic
PLAIN = (bool, int, float, str, type(None))


class _Unspeakable(Exception):
    """Something has no plain form."""


def encoded(graph: fx.Graph) -> list[dict[str, Any]] | None:
    """The nodes of a trace in order, as JSON has them; None if something has no plain form."""
    try:
        return [_node(node) for node in graph.nodes]
    except _Unspeakable:
        return None


def decoded(nodes: object) -> fx.Graph | None:
    """The trace of such nodes; None if they are not one."""
    graph = fx.Graph()
    known: dict[str, fx.Node] = {}
    try:
        for told in _listed(nodes):
            known[told["name"]] = _added(graph, told, known)
    except (_Unspeakable, KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        return None
    return graph


def _node(node: fx.Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "op": node.op,
        "target": _target(node),
        "args": _said(node.args),
        "kwargs": {name: _said(value) for name, value in node.kwargs.items()},
        "val": _shape(node.meta.get("val")),
    }


def _target(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if node.target is operator.getitem:
        return GETITEM
    name = str(node.target)
    if _operator(name) is not node.target:
        raise _Unspeakable
    return name


def _said(value: Any) -> Any:
    """An argument of a node."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [_said(item) for item in value]
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, type_ in KINDS.items():
        if isinstance(value, type_):
            return {kind: str(value).removeprefix("torch.")}
    raise _Unspeakable


def _heard(told: Any, known: Mapping[str, fx.Node]) -> Any:
    """The same, read."""
    if isinstance(told, PLAIN):
        return told
    if isinstance(told, list):
        return [_heard(item, known) for item in told]
    ((kind, name),) = told.items()
    if kind == "node":
        return known[name]
    if kind == "device":
        return torch.device(name)
    found = getattr(torch, name)
    if not isinstance(found, KINDS[kind]):
        raise _Unspeakable
    return found


def _shape(value: Any) -> Any:
    """What a node gives: shape and type of a tensor, or of several."""
    if isinstance(value, Tensor):
        if not all(type(length) is int for length in value.shape):
            raise _Unspeakable
        return [list(value.shape), str(value.dtype).removeprefix("torch.")]
    if isinstance(value, list | tuple):
        return {"several": [_shape(item) for item in value]}
    return None


def _bodiless(told: Any) -> Any:
    """Tensors without numbers of such shapes and types."""
    if told is None:
        return None
    if isinstance(told, dict):
        return [_bodiless(item) for item in _listed(told["several"])]
    shape, dtype = told
    return torch.empty(shape, dtype=_heard({"dtype": dtype}, {}), device="meta")


def _added(graph: fx.Graph, told: Mapping[str, Any], known: Mapping[str, fx.Node]) -> fx.Node:
    op, name = told["op"], told["target"]
    target: Callable[..., Any] | str = name
    if op == "call_function":
        target = operator.getitem if name == GETITEM else _operator(name)
    elif op not in ("placeholder", "output"):
        raise _Unspeakable
    args = tuple(_heard(told["args"], known))
    kwargs = {key: _heard(value, known) for key, value in told["kwargs"].items()}
    node = graph.create_node(op, target, args, kwargs, name=told["name"])
    if node.name != told["name"]:
        raise _Unspeakable
    node.meta["val"] = _bodiless(told["val"])
    return node


def _operator(name: str) -> Callable[..., Any]:
    """An operator of PyTorch's own by its name, such as "aten.conv2d.default"."""
    found = OPERATOR.fullmatch(name)
    if found is None or any(word in found[1] for word in BARRED):
        raise _Unspeakable
    overloads = getattr(torch.ops.aten, found[1])
    made: Callable[..., Any] = getattr(overloads, found[2])
    if not isinstance(made, torch._ops.OpOverload) or made._schema.is_mutable:
        raise _Unspeakable
    return made


def _listed(value: object) -> Sequence[Any]:
    if not isinstance(value, list):
        raise _Unspeakable
    return value
