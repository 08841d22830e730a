"""A network of PyTorch as a graph of OpenVINO's operators.

The network is traced (`traces`), which computes nothing, and each operator of the trace is written
in OpenVINO's (`openvino_ops`). The graph shares the weights' memory. OpenVINO's own
converter would do the same work; it is not used because it reports its use over the network, and
because eight bits and folded upsampling are easiest said where a layer is written.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from safelight.engines import openvino_ops as translations
from safelight.engines.openvino_import import openvino
from safelight.engines.openvino_ops import Output, Untranslated, shape_of
from safelight.engines.traces import trace_of
from safelight.errors import RequestError
from safelight.printable import shown

INNER = "network"  # what a module calls the network that it gives another signature


class Products(Protocol):
    """How the layers of a graph shall multiply."""

    def of(self, build: Any, layer: str, x: Output, weight: Tensor) -> tuple[Output, Output] | None:
        """Input and weight as the layer of this name takes them; None for as they are.

        build: the graph under construction (`openvino_ops.Builder`).
        """
        ...

    def attention(
        self, build: Any, layer: str, query: Output, key: Output, value: Output
    ) -> Output | None:
        """What the attention of this name gives, (B, H, N, d); None for as it is."""
        ...


@dataclass(frozen=True, eq=False)
class Graph:
    """A network in OpenVINO's operators, for inputs of one shape.

    model: an openvino.Model. Its memory is that of the weights as long as `kept` lives.
    prelude: from the network's inputs in order to the graph's in order.
    """

    model: Any
    prelude: "Prelude"
    kept: Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Prelude:
    """What PyTorch itself computes of the inputs before the graph begins, in their own types.

    Sinusoids of the time above all: OpenVINO would compute them in bfloat16, which at t = 1000
    rounds the phase by several radians.
    """

    inputs: tuple[fx.Node, ...]
    steps: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]

    def __call__(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The network's inputs -> the graph's."""
        known: dict[fx.Node, Any] = dict(zip(self.inputs, given, strict=True))
        for node in self.steps:
            known[node] = _computed(node, known)
        return [known[node] for node in self.outputs]


def graph_of(
    network: nn.Module, examples: Mapping[str, Tensor], products: Products | None = None
) -> Graph:
    """The graph of a network that takes these tensors, in this order, and gives one tensor.

    examples: of the shapes and types to come; their numbers do not count. Vectors of one number a
        picture are given to PyTorch first (`Prelude`). The result is float32.
    Raises RequestError, naming the operator, for a network that cannot be translated.
    """
    trace = trace_of(network, examples)
    weights = network.state_dict(keep_vars=True)
    known: dict[fx.Node, Any] = {}
    inputs: list[fx.Node] = []
    layers: dict[fx.Node, str] = {}
    for node in trace.graph.find_nodes(op="placeholder"):
        name = trace.weights.get(node.name)
        if name is not None:
            known[node] = weights[name].detach()
            layers[node] = name.rpartition(".")[0].removeprefix(f"{INNER}.")
        elif node.name in trace.constants:
            known[node] = trace.constants[node.name]
        else:
            inputs.append(node)
    prelude = _prelude(trace.graph, inputs)
    builder = _Builder(layers, products)
    return builder.built(trace.graph, known, prelude, dict(zip(inputs, examples, strict=True)))


def _prelude(graph: fx.Graph, inputs: Sequence[fx.Node]) -> Prelude:
    """The operations on vectors of one number a picture before they meet weights or maps."""
    early = {node for node in inputs if len(shape_of(node)) <= 1}
    free: set[fx.Node] = set()  # of every input and weight: ranges of numbers
    steps = []
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        sources = node.all_input_nodes
        if not sources or all(source in free for source in sources):
            free.add(node)
        elif all(source in early or source in free for source in sources):
            early.add(node)
            steps.append(node)
    needed = tuple(node for node in (*inputs, *steps) if _leaves(node, early))
    return Prelude(tuple(inputs), (*_before(graph, free, steps), *steps), needed)


def _leaves(node: fx.Node, early: set[fx.Node]) -> bool:
    """Whether the graph itself takes it: it is no step of the prelude, or used beyond it."""
    return node not in early or any(user not in early for user in node.users if _counts(user))


def _counts(user: fx.Node) -> bool:
    return "assert" not in str(user.target)


def _before(graph: fx.Graph, free: set[fx.Node], steps: Sequence[fx.Node]) -> list[fx.Node]:
    """The constants that the steps use, in order."""
    wanted: set[fx.Node] = set()
    queue = [source for node in steps for source in node.all_input_nodes if source in free]
    while queue:
        node = queue.pop()
        if node not in wanted:
            wanted.add(node)
            queue += node.all_input_nodes
    return [node for node in graph.nodes if node in wanted]


def _computed(node: fx.Node, known: Mapping[fx.Node, Any]) -> Any:
    """What PyTorch makes of a node whose inputs are known."""
    if not _counts(node):
        return None
    args = fx.node.map_arg(node.args, known.__getitem__)
    named = fx.node.map_arg(dict(node.kwargs), known.__getitem__)
    target = node.target
    assert callable(target)
    return target(*args, **named)


@dataclass(frozen=True, eq=False)
class _Doubled:
    """A map that the convolution after it shall see at twice its size."""

    x: Output


class _Builder:
    """A graph under construction (`openvino_ops.Builder`)."""

    def __init__(self, layers: Mapping[fx.Node, str], products: Products | None) -> None:
        self.openvino = openvino()
        self.ops: Any = self.openvino.opset15
        kinds = self.openvino.Type
        self.types = {
            torch.float32: kinds.f32,
            torch.bfloat16: kinds.bf16,
            torch.float16: kinds.f16,
            torch.int64: kinds.i64,
            torch.int8: kinds.i8,
        }
        self.layers = layers
        self.products = products
        self.kept: list[Tensor] = []
        self.further: list[Output] = []

    def built(
        self,
        graph: fx.Graph,
        known: dict[fx.Node, Any],
        prelude: Prelude,
        names: Mapping[fx.Node, str],
    ) -> Graph:
        parameters = []
        for node in prelude.outputs:
            dtype = node.meta["val"].dtype
            kind = self.types[torch.float32 if dtype.is_floating_point else torch.int64]
            parameter = self.ops.parameter(list(shape_of(node)), kind, names.get(node, node.name))
            parameters.append(parameter)
            known[node] = parameter.output(0)
        early = {*prelude.inputs, *prelude.steps}
        results = []
        for node in graph.nodes:
            if node.op == "call_function" and node not in early and _counts(node):
                known[node] = self._made(node, known)
            elif node.op == "output":
                outputs = fx.node.map_arg(node.args[0], known.__getitem__)
                results = [self.ops.result(self.value(made)) for made in outputs]
        results += [self.ops.result(output) for output in self.further]
        model = self.openvino.Model(results, parameters, "network")
        return Graph(model, prelude, tuple(self.kept))

    def _made(self, node: fx.Node, known: Mapping[fx.Node, Any]) -> Any:
        given = [known[source] for source in node.all_input_nodes]
        if all(isinstance(one, Tensor) or one is None for one in given):
            return _computed(node, known)
        args: Any = fx.node.map_arg(node.args, known.__getitem__)
        named: Any = fx.node.map_arg(dict(node.kwargs), known.__getitem__)
        if node.target is operator.getitem:
            return args[0][args[1]]
        try:
            return self._translated(node, args, named)
        except Untranslated as error:
            raise RequestError(
                f"engine openvino cannot compute this network: it has {error}, which is not "
                "translated; draw with --engine eager"
            ) from None

    def _translated(self, node: fx.Node, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        name = operator_name(node)
        if name == "upsample_nearest2d" and _doubles_for_conv(node):
            return _Doubled(args[0])
        if name == "conv2d" and isinstance(args[0], _Doubled):
            bias = args[2] if len(args) > 2 else None
            return translations.upsampled_conv2d(self, node, args[0].x, args[1], bias)
        if name == "linear" and (parts := _parts(node)):
            bias = args[2] if len(args) > 2 else None
            return translations.chunked_linear(self, node, args[0], args[1], bias, parts)
        if name == "chunk" and isinstance(args[0], list):
            return args[0]
        translate: Callable[..., Any] | None = translations.TRANSLATIONS.get(name)
        if translate is None:
            raise Untranslated(f"the operator {shown(name)}")
        return translate(self, node, *args, **named)

    def known(self, value: Tensor | float) -> Output:
        if not isinstance(value, Tensor):
            value = torch.tensor(float(value))
        tensor = value.detach().cpu().contiguous()
        if tensor.dtype not in self.types:
            tensor = tensor.float() if tensor.is_floating_point() else tensor.long()
        self.kept.append(tensor)
        kind = self.types[tensor.dtype]
        plain = tensor.view(torch.int16) if tensor.element_size() == 2 else tensor
        memory = self.openvino.Tensor(plain.numpy(), list(tensor.shape), kind)
        constant = self.openvino.op.Constant(memory, shared_memory=True)
        if tensor.dtype not in (torch.bfloat16, torch.float16):
            return constant.output(0)
        wide = self.ops.convert(constant, "f32")
        # Said to be a compression: the runtime then packs what is there and makes no wide copy.
        wide.get_rt_info()["decompression_0"] = ""
        return wide.output(0)

    def value(self, made: Output | Tensor | float) -> Output:
        return self.known(made) if isinstance(made, Tensor | float | int) else made

    def also(self, output: Output) -> None:
        self.further.append(output)

    def integers(self, *values: int) -> Output:
        return self.known(torch.tensor(values, dtype=torch.int64))

    def told(self, node: fx.Node, x: Output, weight: Tensor) -> tuple[Output, Output] | None:
        source = node.args[1]
        layer = self.layers.get(source) if isinstance(source, fx.Node) else None
        if self.products is None or layer is None:
            return None
        return self.products.of(self, layer, x, weight)

    def attended(self, node: fx.Node, query: Output, key: Output, value: Output) -> Output | None:
        source = node.args[0]
        if self.products is None or not isinstance(source, fx.Node):
            return None
        # Its name is that of the layer that makes its queries, without the last part.
        while operator_name(source) != "linear" and source.all_input_nodes:
            source = source.all_input_nodes[0]
        weight = source.args[1] if len(source.args) > 1 else None
        layer = self.layers.get(weight) if isinstance(weight, fx.Node) else None
        if layer is None:
            return None
        return self.products.attention(self, layer.rpartition(".")[0], query, key, value)


def operator_name(node: fx.Node) -> str:
    """The name of a node's operator in PyTorch, without overload: "conv2d"."""
    return (
        str(getattr(node.target, "_schema", node.target))
        .split("(")[0]
        .split("::")[-1]
        .split(".")[0]
    )


def _doubles_for_conv(node: fx.Node) -> bool:
    """Whether a nearest-neighbour map is exactly doubled, and only for 3 x 3 convolutions."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if shape_of(node)[2:] != tuple(2 * length for length in shape_of(source)[2:]):
        return False
    return all(
        operator_name(user) == "conv2d"
        and isinstance(weight := user.args[1], fx.Node)
        and shape_of(weight)[2:] == (3, 3)
        and [list(v) for v in user.args[3:]] in ([[1, 1], [1, 1]], [[1, 1], [1, 1], [1, 1]])  # type: ignore[arg-type]
        for user in node.users
    )


def _parts(node: fx.Node) -> int:
    """Into how many chunks alone a linear layer's output is cut; 0 if anything else sees it."""
    users = list(node.users)
    if len(users) != 1 or operator_name(users[0]) != "chunk" or len(users[0].args) != 3:
        return 0
    _, parts, dim = users[0].args
    width = shape_of(node)[-1]
    last = dim in (-1, len(shape_of(node)) - 1)
    return parts if last and isinstance(parts, int) and width % parts == 0 else 0
