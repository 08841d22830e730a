"""Attention in eight bits: how far it is from exact attention, and where that is found out."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models_tiny import distance, random, randomised
from safelight.engines.openvino_attention import AttentionRounding, SeenAttention
from safelight.engines.openvino_eight import EightBits, Scales
from safelight.engines.openvino_graph import graph_of
from safelight.engines.openvino_runtime import compiled, missing
from safelight.engines.openvino_scales_file import kept, remembered
from safelight.engines.openvino_watching import Watching
from safelight.models.unet import UNet, UNetConfig

pytestmark = pytest.mark.slow
needs_int8 = pytest.mark.skipif(
    missing("INT8", "BF16") is not None, reason="this processor multiplies no bytes"
)
NAME = "attn1"
FINE = AttentionRounding(6.0, 6.0, 6.0, 0.1)


class Attention(nn.Module):
    """Four heads of 8; `attn1` names it."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (4, 8)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1 = Attention()

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.attn1(x)
        return made


def network() -> Around:
    torch.manual_seed(0)
    return Around().requires_grad_(False)


@needs_int8
@torch.no_grad()
def test_the_runtime_attends_as_is_judged() -> None:
    net, x = network(), random(2, 256, 32)
    q, k, v = (
        layer(x).unflatten(-1, (4, 8)).transpose(1, 2)
        for layer in (net.attn1.to_q, net.attn1.to_k, net.attn1.to_v)
    )
    wanted = FINE.attended(q, k, v).transpose(1, 2).flatten(2)
    graph = graph_of(net, {"x": x}, EightBits(Scales({}, {NAME: FINE})))
    made = compiled(graph, "f32")([x])
    exact = net(x)
    away = float((made - wanted).std() / (wanted - exact).std())
    assert away < 0.2  # a level here and there
    assert 0 < float((made - exact).std() / exact.std()) < 0.05


@pytest.mark.parametrize("tokens", [255, 256])
def test_only_attention_of_many_tokens_is_watched_and_rounded(tokens: int) -> None:
    net, x = network(), random(2, tokens, 32)
    watching = Watching(lambda layer, weight: False)
    graph_of(net, {"x": x}, watching)
    assert list(watching.attentions) == ([NAME] if tokens == 256 else [])
    graph = graph_of(net, {"x": x}, EightBits(Scales({}, {NAME: FINE})))
    rounded = "FakeQuantize" in {op.get_type_name() for op in graph.model.get_ops()}
    assert rounded is (tokens == 256)


@torch.no_grad()
def test_the_largest_numbers_and_pieces_are_seen() -> None:
    net, x = network(), random(2, 256, 32)
    watching = Watching(lambda layer, weight: weight.ndim == 2)
    graph = compiled(graph_of(net, {"x": x}, watching), "f32")
    for keep in (True, False):
        _, *results = graph.results([x])
        watching.gather(results, keep=keep)
    seen = watching.attentions[NAME]
    q, k, v = (layer(x) for layer in (net.attn1.to_q, net.attn1.to_k, net.attn1.to_v))
    assert torch.allclose(seen.largest[:3], torch.stack([y.abs().max() for y in (q, k, v)]))
    assert 1 / 256 < float(seen.largest[3]) < 0.1
    ((query, key, value),) = seen.pieces
    assert query.shape == (2, 2, 48, 8) and key.shape == value.shape == (2, 2, 256, 8)
    assert seen.judged()[1] < 1e-3
    (linear,) = watching.seen.values()  # its own results were told apart
    assert linear.low is not None and torch.allclose(linear.low, x.amin((0, 1)))


def seen_of(query: Tensor, key: Tensor, value: Tensor) -> SeenAttention:
    weights = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1)
    largest = torch.stack([x.abs().max() for x in (query, key, value, weights)])
    seen = SeenAttention(NAME)
    seen.add([*largest, query, key, value], keep=True)
    return seen


def test_even_attention_bears_it_and_attention_to_a_few_does_not() -> None:
    query, key, value = (random(1, 2, n, 8, seed=n + i) for i, n in enumerate((48, 400, 400)))
    query /= 3
    _, even = seen_of(query, key, value).judged()
    sharp = query.clone()
    sharp[:, :, :4] *= 30  # a few queries choose one key: the others' weights have no level left
    _, mixed = seen_of(sharp, key, value).judged()
    assert even < 1e-3
    assert mixed > 10 * even


def test_ranges_of_attention_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFELIGHT_CACHE", str(tmp_path / "cache"))
    unet = UNet(
        UNetConfig(channels=(16, 32), depths=((1,), (1,)), heads=(2, 2), context_width=12, groups=4)
    )
    randomised(unet)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    given = Scales({}, {name: FINE})
    kept("0" * 64, given)
    found = remembered("0" * 64, unet)
    assert found is not None and found.attention == given.attention


def test_rounding_that_has_room_changes_little() -> None:
    query, key, value = random(1, 2, 16, 8), random(1, 2, 64, 8), random(1, 2, 64, 8)
    exact = torch.softmax(query @ key.mT / 8**0.5, -1) @ value
    assert distance(AttentionRounding(5.0, 5.0, 5.0, 1.0).attended(query, key, value), exact) < 0.2
