"""A trace that was kept is the trace that is made, and serves only the network it was made of."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from models_tiny import distance, random, randomised
from safelight.engines import traces
from safelight.engines.private_note import keep_note, note_of
from safelight.engines.trace_file import decoded, encoded
from safelight.engines.traces import FOLDER, Trace, trace_of, traced
from safelight.models.unet import UNet, UNetConfig

SMALL = UNetConfig(channels=(8, 16), depths=((1,), (1,)), heads=(2, 2), context_width=12, groups=4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path))
    return tmp_path


def unet(config: UNetConfig = SMALL) -> UNet:
    made = UNet(config)
    randomised(made, 0)
    return made.requires_grad_(False)


def examples(height: int = 6) -> dict[str, Tensor]:
    return {
        "x": random(2, 4, height, 8, seed=1),
        "time": torch.tensor([999.0, 400.25]),
        "context": random(2, 7, 12, seed=2),
    }


@cache
def told_once() -> tuple[dict[str, Any], ...]:
    told = encoded(traced(unet(), examples()).graph)
    assert told is not None
    return tuple(told)


def told_nodes() -> list[dict[str, Any]]:
    """The nodes of a trace as they are kept, to be changed at will."""
    return deepcopy(list(told_once()))


def computed(trace: Trace, network: nn.Module, given: Mapping[str, Tensor]) -> Tensor:
    """What the operators of a trace make, by PyTorch."""
    weights, inputs = network.state_dict(), iter(given.values())
    known: dict[fx.Node, Any] = {}
    for node in trace.graph.nodes:
        if node.op == "placeholder":
            name = trace.weights.get(node.name)
            known[node] = next(inputs) if name is None else weights[name]
        elif node.op == "call_function":
            args = fx.node.map_arg(node.args, known.__getitem__)
            told = fx.node.map_arg(dict(node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **told)
    (output,) = trace.graph.find_nodes(op="output")
    made: Tensor = known[output.args[0][0]]
    return made


def untraceable(*_: object, **__: object) -> None:
    raise AssertionError("it is traced anew")


def notes(cache: Path) -> list[Path]:
    return sorted((cache / FOLDER).glob("*.json"))


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, linear_projection=True)])
def test_a_kept_trace_computes_what_the_network_does(
    config: UNetConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, given = unet(config), examples()
    fresh = computed(trace_of(network, given), network, given)
    monkeypatch.setattr(traces, "traced", untraceable)
    again = trace_of(unet(config), given)
    made = computed(again, network, given)
    assert torch.equal(made, fresh)
    assert distance(made, network(*given.values())) < 1e-5


def test_every_node_is_what_it_was() -> None:
    made = traced(unet(), examples()).graph
    told = encoded(made)
    assert told is not None
    read = decoded(told)
    assert read is not None
    for old, new in zip(made.nodes, read.nodes, strict=True):
        assert (old.name, old.op, old.target) == (new.name, new.op, new.target)
        assert len(old.users) == len(new.users)
        if isinstance(old.meta.get("val"), Tensor):
            assert old.meta["val"].shape == new.meta["val"].shape
            assert old.meta["val"].dtype == new.meta["val"].dtype


@pytest.mark.slow
def test_other_shapes_types_and_structures_are_traced_anew(own_cache: Path) -> None:
    trace_of(unet(), examples())
    trace_of(unet(), examples(8))
    trace_of(unet().bfloat16(), {k: v.bfloat16() for k, v in examples().items()})
    trace_of(unet(replace(SMALL, linear_projection=True)), examples())
    assert len(notes(own_cache)) == 4
    trace_of(unet(), examples())
    assert len(notes(own_cache)) == 4


@pytest.mark.slow
def test_a_damaged_or_foreign_note_is_made_anew(own_cache: Path) -> None:
    network, given = unet(), examples()
    trace_of(network, given)
    (path,) = notes(own_cache)
    sound = path.read_bytes()
    for data in (b"", sound[:-10], sound.replace(b"conv2d", b"conv1d"), b"x\n" + sound):
        path.write_bytes(data)
        made = trace_of(network, given)
        assert distance(computed(made, network, given), network(*given.values())) < 1e-5
        assert path.read_bytes() == sound


@pytest.mark.parametrize(
    "target",
    [
        "aten.from_file.default",
        "aten.add_.Tensor",
        "prims.add.default",
        "os.system",
        "aten.__class__.mro",
        "aten.no_such.default",
        "aten.conv2d.no_such",
    ],
)
def test_a_note_names_nothing_but_arithmetic(target: str) -> None:
    told = told_nodes()
    node = next(one for one in told if one["op"] == "call_function")
    assert decoded(told) is not None
    node["target"] = target
    assert decoded(told) is None


@pytest.mark.parametrize(
    "change",
    [
        {"op": "call_module"},
        {"op": "get_attr"},
        {"args": [{"node": "nobody"}]},
        {"args": [{"dtype": "load"}]},
        {"args": [{"thing": 1}]},
        {"kwargs": []},
        {"val": [[-1], "float32"]},
        {"name": "x"},
    ],
)
def test_a_note_that_is_no_trace_counts_as_none(change: dict[str, object]) -> None:
    told = told_nodes()
    next(one for one in told if one["op"] == "call_function").update(change)
    assert decoded(told) is None


@pytest.mark.parametrize("nodes", [None, {}, "nodes", [1], [{}], [[]]])
def test_what_is_no_list_of_nodes_counts_as_none(nodes: object) -> None:
    assert decoded(nodes) is None


@pytest.mark.slow
def test_a_network_with_settings_that_cannot_be_told_is_traced_each_time(own_cache: Path) -> None:
    network = unet()
    network.more = object()  # type: ignore[assignment]
    given = examples()
    made = trace_of(network, given)
    assert distance(computed(made, network, given), network(*given.values())) < 1e-5
    assert notes(own_cache) == []


def test_the_oldest_notes_go(own_cache: Path) -> None:
    for number in range(5):
        keep_note("some", str(number), {"number": number}, most=3)
    kept = [number for number in range(5) if note_of("some", str(number)) is not None]
    assert len(kept) == 3
    assert 4 in kept
