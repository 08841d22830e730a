"""Modes, ranges and effects of controls."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from controls_tiny import adapter_twins, controlnet_twins, pictures, union_twins
from safelight.condition import Condition, Control
from safelight.errors import RequestError
from safelight.models.backbone import Backbone
from safelight.models.control_effects import MeasuredControls
from safelight.models.control_modes import (
    CONTROL_MODES,
    guess_weights,
    sigma_range,
    soft_adapter_weights,
    soft_weights,
    steering,
)
from safelight.models.control_types import UNION_TYPES, union_type
from unet_published import TINY_CONTEXT, twins

TIME = torch.tensor([500.0])
SIGMAS = [14.0, 8.0, 4.0, 2.0, 1.0, 0.0]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_soft_weights_are_those_of_a1111() -> None:
    thirteen = [0.825 ** float(12 - i) for i in range(13)]
    assert soft_weights(13) == pytest.approx(thirteen)
    # its zip stops at XL's tenth residual
    assert soft_weights(10) == pytest.approx(thirteen[:10])
    assert max(soft_weights(16)) == 1
    assert soft_adapter_weights(4) == (0.25, 0.62, 0.825, 1.0)
    assert soft_adapter_weights(3) == pytest.approx((0.825**2, 0.825, 1))


@pytest.mark.parametrize("count", [1, 10, 13])
def test_guess_weights_are_those_of_diffusers(count: int) -> None:
    expected = torch.logspace(-1, 0, count).tolist() if count > 1 else [1.0]
    assert guess_weights(count) == pytest.approx(expected)


def test_every_mode_steers_every_network() -> None:
    net, adapter = controlnet_twins("sd15")[0], adapter_twins("full")[0]
    shuffle = controlnet_twins("sd15", global_pool_conditions=True)[0]
    on_negative = {mode: steering(mode, net).on_negative for mode in CONTROL_MODES}
    assert on_negative == {"balanced": True, "prompt": True, "control": False, "guess": False}
    assert steering("balanced", net).weights is None
    assert steering("control", net) == replace(steering("prompt", net), on_negative=False)
    assert steering("guess", net).weights == guess_weights(13)
    assert steering("prompt", adapter).weights == soft_adapter_weights(4)
    assert steering("prompt", union_twins()[0]).weights == soft_weights(10)
    assert not any(steering(mode, shuffle).on_negative for mode in CONTROL_MODES)
    assert steering("guess", shuffle).weights is None


@pytest.mark.parametrize(
    ("start", "end", "rule", "expected"),
    [
        (0.0, 1.0, "diffusers", (math.inf, -1.0)),
        (0.0, 0.4, "diffusers", (math.inf, 4.0)),
        (0.0, 0.4, "a1111", (math.inf, 2.0)),
        (0.4, 1.0, "diffusers", (4.0, -1.0)),
        (0.2, 0.8, "diffusers", (8.0, 1.0)),
        (0.21, 0.8, "diffusers", (4.0, 1.0)),
        (0.0, 0.1, "diffusers", (-1.0, -1.0)),
    ],
)
def test_a_share_of_the_steps_is_a_range_of_sigma(
    start: float, end: float, rule: str, expected: tuple[float, float]
) -> None:
    found = sigma_range(SIGMAS, start, end, rule)  # type: ignore[arg-type]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("steps", [1, 5, 7, 20])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.3, 1.0), (0.25, 0.8), (0.9, 0.2)])
def test_the_steps_in_a_range_are_those_that_diffusers_keeps(
    steps: int, start: float, end: float
) -> None:
    sigmas = [*(14.0 * 0.8**i for i in range(steps)), 0.0]
    high, low = sigma_range(sigmas, start, end)
    acting = [low < sigma <= high for sigma in sigmas[:-1]]
    # pipeline_controlnet.py: `controlnet_keep`
    kept = [not (i / steps < start or (i + 1) / steps > end) for i in range(steps)]
    assert acting == kept


def test_types_of_unions_have_names() -> None:
    assert union_type("Canny", 6) == 3 and union_type("tile", 8) == UNION_TYPES["tile"] == 6
    assert union_type("5", 6) == 5
    for name, known in (("tile", 6), ("9", 8), ("cat", 8)):
        with pytest.raises(RequestError, match=f"no type '{name}'; choose from openpose"):
            union_type(name, known)


class Counting:
    """A backbone that counts its calls."""

    def __init__(self, network: Backbone) -> None:
        self.network, self.calls = network, 0

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.calls += 1
        return self.network(x, time, condition)

    def with_attention(self, x: Tensor, time: Tensor, told: Condition) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self.network.with_attention(x, time, told)


def measured() -> tuple[MeasuredControls, Counting, Condition, Tensor]:
    nets = {"edges": controlnet_twins("sd15")[0], "depth": adapter_twins("full")[0]}
    counting = Counting(Backbone(twins("sd15")[0], control_networks=nets))
    image, x = pictures(1, 3, 64, 64), normal(1, 4, 8, 8, seed=1)
    controls = (Control("edges", image, 0.7), Control("depth", image), Control("edges", image, 0.0))
    told = Condition(normal(1, 7, TINY_CONTEXT, seed=2), controls=controls)
    return MeasuredControls(counting), counting, told, x


@torch.no_grad()
def test_each_control_is_measured_once_at_its_first_active_call() -> None:
    network, counting, told, x = measured()
    only = replace(told, controls=told.controls[1:])
    outputs = [network(x, TIME, c) for c in (only, only, told, told)]
    # one call more for the adapter, one for the ControlNet, none for what counts nothing
    assert counting.calls == 4 + 2
    plain = counting.network
    assert torch.equal(outputs[0], plain(x, TIME, only))
    assert torch.equal(outputs[2], plain(x, TIME, told))
    depth, idle, edges = network.effects
    assert (depth.net, edges.net, idle.net) == ("depth", "edges", "edges")
    without = plain(x, TIME, replace(told, controls=told.controls[1:]))
    expected = (outputs[2] - without).square().mean().sqrt() / without.square().mean().sqrt()
    assert edges.change == pytest.approx(float(expected), rel=1e-5) and not edges.none
    assert edges.scale == 0.7 and depth.change > 1e-3
    assert idle.scale == 0 and idle.change == 0 and idle.none


@torch.no_grad()
def test_measuring_changes_nothing_and_shows_attention() -> None:
    network, counting, told, x = measured()
    output, attention = network.with_attention(x, TIME, told)
    expected, expected_attention = counting.network.with_attention(x, TIME, told)
    assert torch.equal(output, expected) and torch.equal(attention, expected_attention)
    assert len(network.effects) == 3


@torch.no_grad()
def test_a_control_without_effect_is_noticed() -> None:
    net = controlnet_twins("sd15")[0]
    dead = type(net)(net.control).eval()
    dead.load_state_dict({n: torch.zeros_like(t) for n, t in net.state_dict().items()})
    network = MeasuredControls(Backbone(twins("sd15")[0], control_networks={"dead": dead}))
    image = pictures(1, 3, 64, 64)
    told = Condition(normal(1, 7, TINY_CONTEXT), controls=(Control("dead", image),))
    network(normal(1, 4, 8, 8), TIME, told)
    assert [effect.none for effect in network.effects] == [True]


@torch.no_grad()
def test_two_pictures_of_one_network_are_measured_apart() -> None:
    network, _, told, x = measured()
    first = told.controls[0]
    other = replace(first, image=pictures(1, 3, 64, 64, seed=9))
    network(x, TIME, replace(told, controls=(first, other)))
    one, two = network.effects
    assert one.net == two.net == "edges" and one.change != two.change
