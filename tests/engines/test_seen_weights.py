"""Whatever changes what a network computes with is noticed before the next call."""

import gc
from collections.abc import Callable, Mapping
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from models_tiny import random, randomised
from safelight.adapters.adapter import Adapter
from safelight.adapters.attach import attached
from safelight.adapters.strengths import Strengths
from safelight.engines import compiled
from safelight.engines.packages import Loaded
from safelight.engines.seen_weights import Watch, Weights
from safelight.models.deltas import LowRank
from safelight.models.layers import Conv2d, Linear, wrapped
from safelight.models.unet import UNet, UNetConfig

SMALL = UNetConfig(channels=(8, 16), depths=((1,), (1,)), heads=(2, 2), context_width=12, groups=4)
QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"


def network() -> UNet:
    return cast("UNet", randomised(UNet(SMALL), 1)).requires_grad_(False)


def layer(unet: nn.Module, path: str = QUERY) -> Linear:
    return cast("Linear", unet.get_submodule(path))


def delta(unet: nn.Module, path: str = QUERY) -> LowRank:
    out, inner = layer(unet, path).weight.shape[:2]
    return LowRank(random(out, 2, seed=5), random(2, inner, seed=6))


def in_place(unet: nn.Module) -> None:
    layer(unet).weight.mul_(2)


def equal_tensor_elsewhere(unet: nn.Module) -> None:
    layer(unet).weight = nn.Parameter(layer(unet).weight.clone(), requires_grad=False)


def equal_memory_elsewhere(unet: nn.Module) -> None:
    layer(unet).weight.data = layer(unet).weight.data.clone()


def transposed(unet: nn.Module) -> None:
    layer(unet).weight.data = layer(unet).weight.data.t()  # square: the same memory and shape


def other_type(unet: nn.Module) -> None:
    layer(unet).weight.data = layer(unet).weight.data.view(torch.int32)  # the same memory


def narrower(unet: nn.Module) -> None:
    unet.bfloat16()


def loaded(unet: nn.Module) -> None:
    unet.load_state_dict({name: tensor.clone() for name, tensor in unet.state_dict().items()})


def assigned(unet: nn.Module) -> None:
    fresh = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    unet.load_state_dict(fresh, assign=True)


def bias_gone(unet: nn.Module) -> None:
    layer(unet, CONV).bias = None  # type: ignore[assignment]


def bias_come(unet: nn.Module) -> None:
    assert layer(unet).bias is None
    layer(unet).bias = nn.Parameter(torch.ones(8), requires_grad=False)


def buffer_come(unet: nn.Module) -> None:
    layer(unet).register_buffer("more", torch.ones(1))


def layer_replaced(unet: nn.Module) -> None:
    other = Linear(8, 8, bias=False)
    other.weight = layer(unet).weight
    unet.get_submodule(QUERY.rpartition(".")[0]).to_q = other


def layer_of_another_kind(unet: nn.Module) -> None:
    class Other(Linear):
        pass

    layer(unet).__class__ = Other


def other_order(unet: nn.Module) -> None:
    blocks = cast("UNet", unet).up_blocks._modules
    blocks["0"] = blocks.pop("0")


def delta_in_a_slot(unet: nn.Module) -> None:
    layer(unet).deltas["one"] = delta(unet)


def module_in_another_slot(unet: nn.Module) -> None:
    layer(unet).changes["one"] = nn.Identity()


WAYS = (
    in_place,
    equal_tensor_elsewhere,
    equal_memory_elsewhere,
    transposed,
    other_type,
    narrower,
    loaded,
    assigned,
    bias_gone,
    bias_come,
    buffer_come,
    layer_replaced,
    layer_of_another_kind,
    other_order,
    delta_in_a_slot,
    module_in_another_slot,
)


@pytest.mark.parametrize("change", WAYS, ids=lambda way: way.__name__)
@torch.no_grad()
def test_every_change_is_noticed_once(change: Callable[[nn.Module], None]) -> None:
    unet = network()
    watch = Watch(unet)
    assert [watch.changed(), watch.changed()] == [True, False]
    change(unet)
    assert [watch.changed(), watch.changed()] == [True, False]


@torch.no_grad()
def test_what_lies_in_slots_is_watched_like_the_network() -> None:
    unet = network()
    mine, other = delta(unet), delta(unet)
    layer(unet).deltas["one"] = mine
    watch = Watch(unet)
    watch.changed()
    next(mine.parameters(), next(mine.buffers(), None)).add_(1)  # type: ignore[union-attr]
    assert [watch.changed(), watch.changed()] == [True, False]
    layer(unet).deltas["one"] = other
    assert [watch.changed(), watch.changed()] == [True, False]
    del layer(unet).deltas["one"]
    layer(unet, QUERY.replace("to_q", "to_k")).deltas["one"] = other
    assert [watch.changed(), watch.changed()] == [True, False]
    del layer(unet, QUERY.replace("to_q", "to_k")).deltas["one"]
    assert [watch.changed(), watch.changed()] == [True, False]


@pytest.mark.parametrize("mode", ["fold", "slot"])
def test_an_adapter_is_noticed_when_it_comes_changes_and_goes(mode: str) -> None:
    unet = network()
    watch = Watch(unet)
    watch.changed()
    adapter = Adapter("one", {"unet": {QUERY: delta(unet), CONV: conv_delta(unet)}})
    with attached({"unet": unet}, [(adapter, Strengths(0.5))], mode=mode) as on:  # type: ignore[arg-type]
        assert [watch.changed(), watch.changed()] == [True, False]
        on.set_strengths([Strengths(0.25)])
        assert [watch.changed(), watch.changed()] == [True, False]
    assert [watch.changed(), watch.changed()] == [True, False]


def conv_delta(unet: nn.Module) -> LowRank:
    out, into = layer(unet, CONV).weight.shape[:2]
    return LowRank(random(out, 2, 1, 1, seed=5), random(2, into, 3, 3, seed=6))


def test_a_picture_that_continues_at_its_other_side_is_noticed() -> None:
    unet = network()
    assert any(isinstance(module, Conv2d) for module in unet.modules())
    watch = Watch(unet)
    watch.changed()
    with wrapped(unet, x=True):
        assert [watch.changed(), watch.changed()] == [True, False]
    assert [watch.changed(), watch.changed()] == [True, False]


@torch.no_grad()
def test_what_was_put_back_between_two_looks_is_what_it_was() -> None:
    unet = network()
    watch = Watch(unet)
    watch.changed()
    own = layer(unet).weight
    layer(unet).weight = nn.Parameter(2 * own, requires_grad=False)
    layer(unet).weight = own
    layer(unet).deltas["one"] = delta(unet)
    del layer(unet).deltas["one"]
    assert not watch.changed()


@torch.no_grad()
def test_a_weight_that_was_seen_lends_its_memory_to_no_other() -> None:
    """Else a new weight could lie where the old one lay, and pass for it."""
    unet = network()
    watch = Watch(unet)
    watch.changed()
    for factor in range(20):
        fresh = layer(unet).weight * (factor + 2)
        layer(unet).weight = nn.Parameter(fresh, requires_grad=False)
        del fresh
        gc.collect()
        assert watch.changed(), factor


def test_weights_made_in_inference_mode_are_watched_by_what_they_are() -> None:
    with torch.inference_mode():
        unet = nn.Sequential(nn.Linear(2, 2))
    watch = Watch(unet)
    assert [watch.changed(), watch.changed()] == [True, False]
    unet[0].weight = nn.Parameter(torch.zeros(2, 2))
    assert watch.changed()


# -- the compiled engine gives its graph what is fresh ---------------------------------------------


class Given(Loaded):
    """Stands for a loaded graph, and keeps the names that it was given."""

    def __init__(self) -> None:
        self.names: list[set[str]] = []
        self.ill = False

    def give(self, weights: Mapping[str, Tensor]) -> None:
        if self.ill:
            raise MemoryError
        self.names.append(set(weights))


@torch.no_grad()
def test_a_compiled_graph_is_given_all_weights_and_then_those_that_changed() -> None:
    unet = network()
    wanted = {f"{QUERY}.weight": None, f"{CONV}.weight": None}
    given = Given()
    graph = compiled._Graph(given, dict(wanted), Weights(unet, wanted))
    for _ in range(2):
        graph.refresh()
    assert given.names == [{f"target.{name}" for name in wanted}]
    in_place(unet)
    graph.refresh()
    assert given.names[1:] == [{f"target.{QUERY}.weight"}]
    given.ill = True
    in_place(unet)
    with pytest.raises(MemoryError):
        graph.refresh()
    given.ill = False
    graph.refresh()
    assert given.names[2] == given.names[0]
