"""What a network does with tensors of some shapes, as a list of PyTorch's operators: a trace.

`torch.export` makes it by running the network on tensors without numbers, which takes seconds. A
trace depends on the network's structure and not on its weights; so it is kept (`trace_file`) under
the hash of all that it depends on (`signature`), and read again in a fraction of a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from safelight.engines.private_note import keep_note, note_of
from safelight.engines.signature import signature
from safelight.engines.trace_file import decoded, encoded

FOLDER = "traces"
MOST = 64  # kept traces, of half a megabyte to three
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Trace:
    """The operators, in order; every node says in `meta["val"]` what it gives (shape and type).

    weights: which inputs of the graph are weights, by the names that the network has for them.
    constants: which of them are numbers that are known.
    """

    graph: fx.Graph
    weights: Mapping[str, str]
    constants: Mapping[str, Tensor]


def trace_of(network: nn.Module, examples: Mapping[str, Tensor]) -> Trace:
    """The trace of a network for these tensors, in this order: a kept one, or a new one.

    examples: of the shapes and types to come; their numbers do not count.
    """
    key = _key(network, examples)
    if key is None:
        return traced(network, examples)
    found = _kept(note_of(FOLDER, key))
    if found is not None:
        return found
    made = traced(network, examples)
    if not made.constants:
        told = encoded(made.graph)
        if told is not None:
            note = {"format": FORMAT, "nodes": told, "weights": dict(made.weights)}
            keep_note(FOLDER, key, note, MOST)
    return made


@torch.no_grad()
def traced(network: nn.Module, examples: Mapping[str, Tensor]) -> Trace:
    """A new trace."""
    # not strict: the modules' own Python is run on tensors without numbers, not read as bytecode
    program = torch.export.export(network, tuple(examples.values()), strict=False)
    told = program.graph_signature
    constants = {
        node: program.constants[name]
        for node, name in told.inputs_to_lifted_tensor_constants.items()
    }
    return Trace(program.graph, {**told.inputs_to_parameters, **told.inputs_to_buffers}, constants)


def _key(network: nn.Module, examples: Mapping[str, Tensor]) -> str | None:
    """The hash of all that a trace depends on; None if the network has more than can be told."""
    shapes = [(name, tuple(one.shape), str(one.dtype)) for name, one in examples.items()]
    try:
        return signature(network, FORMAT, shapes)
    except TypeError:
        return None


def _kept(note: object) -> Trace | None:
    """A trace from its note; None if that is not one."""
    if not isinstance(note, dict) or note.get("format") != FORMAT:
        return None
    weights = note.get("weights")
    if not isinstance(weights, dict):
        return None
    graph = decoded(note.get("nodes"))
    return None if graph is None else Trace(graph, weights, {})
