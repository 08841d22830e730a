"""ComfyUI's graph, from either of its JSON forms: nodes with inputs that are values or links.

The API form (PNG chunk `prompt`) says what was run. The form of its editor (chunk `workflow`) has
links in a list of their own and widget values without names; the names are known for core nodes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from safelight.errors import FileError
from safelight.tasks.bounded_json import Json, as_object

NODE_LIMIT = 10_000
LINK_LIMIT = 50_000
BYPASS_LIMIT = 100  # bypassed nodes in a row
MUTED, BYPASSED = 2, 4  # the editor's `mode` of a node
CONTROLS = ("fixed", "increment", "decrement", "randomize")  # the seed, after a run


class Link(NamedTuple):
    """An input's source: an output of another node."""

    node: str
    slot: int


@dataclass(frozen=True)
class Node:
    """One node: its class, its inputs by name, and values that nobody knows the names of."""

    kind: str
    inputs: Mapping[str, Json | Link]
    nameless: tuple[Json, ...] = ()

    def link(self, *names: str) -> Link | None:
        """The first of the named inputs that is a link."""
        values = (self.inputs.get(name) for name in names)
        return next((value for value in values if isinstance(value, Link)), None)

    def links(self) -> Iterator[Link]:
        """All inputs that are links."""
        return (value for value in self.inputs.values() if isinstance(value, Link))


class Graph(dict[str, Node]):
    """All nodes by their id."""

    def at(self, link: Link | None) -> Node | None:
        """The node at the other end of a link; None if there is none."""
        return None if link is None else self.get(link.node)

    def nearest(self, start: Link | None, wanted: Callable[[Node], bool]) -> str | None:
        """The id of the closest node upstream, this one included, that is wanted."""
        return next((name for name in self.upstream(start) if wanted(self[name])), None)

    def upstream(self, start: Link | None) -> Iterator[str]:
        """The ids of all nodes that feed a link, nearest first, each once."""
        waiting = deque([start.node] if start is not None and start.node in self else [])
        seen = set(waiting)
        while waiting:
            name = waiting.popleft()
            yield name
            for link in self[name].links():
                if link.node in self and link.node not in seen:
                    seen.add(link.node)
                    waiting.append(link.node)


def api_graph(value: Json) -> Graph:
    """The graph of ComfyUI's API form. Raises FileError if it is not one."""
    nodes = as_object(value, what="ComfyUI's prompt")
    _check_count(len(nodes), NODE_LIMIT, "nodes")
    graph = Graph()
    for name, node in nodes.items():
        if isinstance(node, dict) and isinstance(kind := node.get("class_type"), str):
            inputs = node.get("inputs")
            given = inputs if isinstance(inputs, dict) else {}
            graph[name] = Node(kind, {key: _input(item) for key, item in given.items()})
    if not graph:
        raise FileError("ComfyUI's prompt has no nodes.")
    _check_count(sum(len(node.inputs) for node in graph.values()), LINK_LIMIT, "inputs")
    return graph


def editor_graph(value: Json) -> Graph:
    """The graph of ComfyUI's editor form. Raises FileError if it is not one."""
    workflow = as_object(value, what="ComfyUI's workflow")
    nodes, links = workflow.get("nodes"), workflow.get("links")
    if not isinstance(nodes, list) or not isinstance(links, list):
        raise FileError("ComfyUI's workflow has no lists of nodes and links.")
    _check_count(len(nodes), NODE_LIMIT, "nodes")
    _check_count(len(links), LINK_LIMIT, "links")
    drawn = {name: node for node in _objects(nodes) if (name := _id(node.get("id"))) is not None}
    sources = dict(_sources(links))
    detours = {
        name: _detours(node, sources)
        for name, node in drawn.items()
        if node.get("mode") == BYPASSED
    }
    sources = {number: _behind_bypass(link, detours) for number, link in sources.items()}
    graph = Graph()
    for name, node in drawn.items():
        kind = node.get("type")
        if isinstance(kind, str) and node.get("mode") not in (MUTED, BYPASSED):
            named, nameless = _widgets(kind, node)
            graph[name] = Node(kind, {**named, **dict(_linked(node, sources))}, nameless)
    if not graph:
        raise FileError("ComfyUI's workflow has no nodes.")
    _check_count(sum(len(node.inputs) for node in graph.values()), LINK_LIMIT, "inputs")
    return graph


def _check_count(count: int, limit: int, what: str) -> None:
    if count > limit:
        raise FileError(f"ComfyUI's graph has {count} {what}; up to {limit} are read.")


def _id(value: Json) -> str | None:
    """Nodes and links are named by numbers, in places by texts."""
    return str(value) if isinstance(value, int | str) else None


def _input(value: Json) -> Json | Link:
    if isinstance(value, list) and len(value) == 2:
        node, slot = value
        if isinstance(node, str | int) and isinstance(slot, int):
            return Link(str(node), slot)
    return value


def _sources(links: list[Json]) -> Iterator[tuple[str, Link]]:
    """Link number -> its source; a link is a list of six, or an object in newer files."""
    for link in links:
        match link:
            case [int() | str() as number, int() | str() as node, int(slot), *_]:
                yield str(number), Link(str(node), slot)
            case {
                "id": int() | str() as number,
                "origin_id": int() | str() as node,
                "origin_slot": int(slot),
            }:
                yield str(number), Link(str(node), slot)


def _detours(node: Mapping[str, Json], sources: Mapping[str, Link]) -> list[Link | None]:
    """For every output of a bypassed node the source it hands on: its first input of that type."""
    by_type: dict[str, Link] = {}
    for item in _objects(node.get("inputs")):
        source = sources.get(_id(item.get("link")) or "")
        kind = item.get("type")
        if source is not None and isinstance(kind, str):
            by_type.setdefault(kind, source)
    kinds = [item.get("type") for item in _objects(node.get("outputs"))]
    return [by_type.get(kind) if isinstance(kind, str) else None for kind in kinds]


def _behind_bypass(link: Link, detours: Mapping[str, list[Link | None]]) -> Link:
    for _ in range(BYPASS_LIMIT):
        outputs = detours.get(link.node, [])
        source = outputs[link.slot] if 0 <= link.slot < len(outputs) else None
        if source is None:
            return link
        link = source
    return link


def _linked(node: Mapping[str, Json], sources: Mapping[str, Link]) -> Iterator[tuple[str, Link]]:
    for item in _objects(node.get("inputs")):
        name, source = item.get("name"), sources.get(_id(item.get("link")) or "")
        if isinstance(name, str) and source is not None:
            yield name, source


def _widgets(kind: str, node: Mapping[str, Json]) -> tuple[dict[str, Json], tuple[Json, ...]]:
    """The values of a node's widgets by name, and those whose names are not known."""
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return values, ()
    if not isinstance(values, list):
        return {}, ()
    names = WIDGETS.get(kind, ("value", "") if len(values) <= 2 else ())
    # Lists of old editors are shorter; what is beyond the names is given back below, and told.
    named = {name: values[i] for i, name in enumerate(names[: len(values)]) if name}
    controls = [i for i, name in enumerate(names) if not name]
    return named, tuple(
        value
        for i, value in enumerate(values)
        if (i in controls or i >= len(names)) and not _is_control(value, placed=i in controls)
    )


def _is_control(value: Json, *, placed: bool) -> bool:
    """Whether a value says what the editor does with the seed after a run; old ones say yes or no,
    which counts only at the control's own place."""
    return value is None or value in CONTROLS or (placed and isinstance(value, bool))


def _objects(value: Json) -> list[dict[str, Json]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


# The order in which the editor stores the widgets of core nodes; "" is its own seed control.
WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        *("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
        *("start_at_step", "end_at_step", "return_with_leftover_noise"),
    ),
    "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
    "RandomNoise": ("noise_seed", ""),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "KarrasScheduler": ("steps", "sigma_max", "sigma_min", "rho"),
    "ExponentialScheduler": ("steps", "sigma_max", "sigma_min"),
    "PolyexponentialScheduler": ("steps", "sigma_max", "sigma_min", "rho"),
    "AlignYourStepsScheduler": ("model_type", "steps", "denoise"),
    "CFGGuider": ("cfg",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": (
        *("width", "height", "crop_w", "crop_h", "target_width", "target_height"),
        *("text_g", "text_l"),
    ),
    "CLIPTextEncodeSDXLRefiner": ("ascore", "width", "height", "text"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "CheckpointLoader": ("config_name", "ckpt_name"),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "VAELoader": ("vae_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "RescaleCFG": ("multiplier",),
    "ModelSamplingDiscrete": ("sampling", "zsnr"),
    "FreeU": ("b1", "b2", "s1", "s2"),
    "PerturbedAttentionGuidance": ("scale",),
    "SelfAttentionGuidance": ("scale", "blur_sigma"),
    "SaveImage": ("filename_prefix",),
    "Note": ("",),
}
