"""Laws of the layers: slots for deltas, the casting rule, and agreement with Diffusers' layers."""

import math

import pytest
import torch
from diffusers.models.attention import FeedForward as TheirFeedForward
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from safelight.models.deltas import LowRank
from safelight.models.layers import (
    Conv2d,
    Downsample,
    FeedForward,
    GroupNorm,
    LayerNorm,
    Linear,
    ResBlock,
    TimeEmbedding,
    Upsample,
    guidance_embedding,
    timestep_embedding,
)
from unet_published import randomise


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layers() -> list[tuple[Linear | Conv2d, LowRank, Tensor]]:
    convolution, linear = Conv2d(4, 6, 3, stride=2, padding=1), Linear(4, 6)
    low = LowRank(normal(6, 2, 1, 1), normal(2, 4, 3, 3, seed=1))
    flat = LowRank(normal(6, 2), normal(2, 4, seed=1))
    return [(linear, flat, normal(2, 3, 4)), (convolution, low, normal(2, 4, 9, 7))]


def test_an_empty_slot_adds_no_keys() -> None:
    assert set(Linear(2, 3).state_dict()) == {"weight", "bias"}
    assert set(Conv2d(2, 3, 3).state_dict()) == {"weight", "bias"}
    assert set(Linear(2, 3, bias=False).state_dict()) == {"weight"}


def test_layers_without_deltas_are_those_of_torch() -> None:
    for layer, _, x in layers():
        assert torch.equal(layer(x), super(type(layer), layer).forward(x))


def test_a_delta_equals_the_same_change_of_the_weight() -> None:
    for layer, delta, x in layers():
        layer.deltas["style"] = delta
        merged = layer.weight + torch.einsum("or...,ri...->oi...", delta.up, delta.down)
        answer = layer(x)
        layer.deltas.clear()
        before = layer(x)
        layer.weight.data = merged.data
        torch.testing.assert_close(answer, layer(x))
        assert (answer - before).abs().max() > 0.01


def test_deltas_add_up_and_leave_no_trace_when_taken_out() -> None:
    for layer, delta, x in layers():
        before = layer(x)
        layer.deltas.update({"one": delta, "two": delta})
        torch.testing.assert_close(layer(x), before + 2 * delta(x, layer))
        assert any(key.startswith("deltas.one.") for key in layer.state_dict())
        layer.deltas.clear()
        assert torch.equal(layer(x), before)


def test_a_layer_answers_in_the_type_of_its_weight() -> None:
    modules = [
        (Linear(4, 4), normal(2, 4)),
        (Conv2d(4, 4, 3), normal(2, 4, 5, 5)),
        (GroupNorm(2, 4, 1e-5), normal(2, 4, 5, 5)),
        (LayerNorm(4), normal(2, 4)),
    ]
    for module, x in modules:
        for weight in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            for given in (torch.float32, torch.bfloat16, torch.float64):
                assert module.to(weight)(x.to(given)).dtype == weight


def test_a_delta_in_float32_does_not_change_the_type_of_a_bfloat16_layer() -> None:
    for layer, delta, x in layers():
        layer.to(torch.bfloat16).deltas["style"] = delta
        assert delta.up.dtype == torch.float32
        assert layer(x).dtype == torch.bfloat16


class Doubled(nn.Module):
    """A change of weights, and of the bias where there is one."""

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return 2 * weight, None if bias is None else bias + 1


def test_changes_act_on_weight_and_bias_one_after_the_other() -> None:
    cases: list[tuple[nn.Module, Tensor]] = [
        (Linear(4, 6), normal(2, 3, 4)),
        (Linear(4, 6, bias=False), normal(2, 3, 4)),
        (Conv2d(4, 6, 3), normal(2, 4, 5, 5)),
        (GroupNorm(2, 4, 1e-5), normal(2, 4, 5, 5)),
        (LayerNorm(4), normal(2, 3, 4)),
    ]
    for layer, x in cases:
        names = set(layer.state_dict())
        before = layer(x)
        layer.changes.update({"one": Doubled(), "two": Doubled()})  # type: ignore[operator]
        changed = layer(x)
        layer.changes.clear()  # type: ignore[operator]
        assert torch.equal(layer(x), before)
        assert set(layer.state_dict()) == names
        with torch.no_grad():
            layer.weight.mul_(4)  # type: ignore[operator]
            if layer.bias is not None:
                layer.bias.add_(2)  # type: ignore[operator]
        torch.testing.assert_close(layer(x), changed)


def test_what_a_layer_applies_is_what_it_does() -> None:
    for layer, _, x in layers():
        assert torch.equal(layer.applied(x, layer.weight, layer.bias), layer(x))


def test_autocast_decides_the_type_where_it_is_on() -> None:
    linear, x = Linear(4, 4), normal(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x)
        assert y.dtype == torch.bfloat16
        assert linear(y).dtype == torch.bfloat16
    assert linear(y).dtype == torch.float32


def test_layers_built_on_meta_hold_no_buffers() -> None:
    with torch.device("meta"):
        block = ResBlock(32, 64, time_width=8)
    assert not list(block.buffers())
    assert all(p.is_meta for p in block.parameters())


@pytest.mark.parametrize("width", [320, 256, 8, 7])
def test_the_timestep_embedding_is_cosines_then_sines_of_fractional_times(width: int) -> None:
    time = torch.tensor([0.0, 0.25, 1.0, 123.456, 500.5, 999.0, 1000.0])
    embedding = timestep_embedding(time, width)
    assert embedding.dtype == torch.float32
    half = width // 2
    for t, row in zip(time.double().tolist(), embedding.double().tolist(), strict=True):
        phases = [t * 10_000.0 ** (-i / half) for i in range(half)]
        expected = [math.cos(p) for p in phases] + [math.sin(p) for p in phases]
        expected += [0.0] * (width % 2)
        # Phases reach 1000, where neighbouring float32 numbers are 6e-5 apart.
        assert row == pytest.approx(expected, abs=1e-4)
    theirs = get_timestep_embedding(time, width, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.equal(embedding, theirs)


def test_times_of_every_type_and_shape_give_float32_sinusoids() -> None:
    for dtype in (torch.float64, torch.int64, torch.float32):
        time = torch.tensor([[3, 7], [500, 999]], dtype=dtype)
        embedding = timestep_embedding(time, 16)
        assert embedding.shape == (2, 2, 16)
        assert embedding.dtype == torch.float32
        assert torch.equal(embedding[1, 0], timestep_embedding(torch.tensor(500.0), 16))


def test_whole_times_up_to_1000_are_all_told_apart() -> None:
    embedding = timestep_embedding(torch.arange(1001.0), 320)
    assert torch.cdist(embedding, embedding).fill_diagonal_(9.0).min() > 0.1


def test_the_guidance_embedding_is_that_of_latent_consistency_models() -> None:
    scale = torch.tensor([1.0, 2.5, 8.0])
    embedding = guidance_embedding(scale, 256)
    frequencies = [10_000.0 ** (-i / 127) for i in range(128)]
    for w, row in zip(scale.tolist(), embedding.tolist(), strict=True):
        phases = [1000 * (w - 1) * f for f in frequencies]
        expected = [math.sin(p) for p in phases] + [math.cos(p) for p in phases]
        assert row == pytest.approx(expected, abs=2e-3)  # phases reach 7000


def test_the_guidance_is_ignored_by_a_network_without_a_place_for_it() -> None:
    plain, told = TimeEmbedding(8, 16), TimeEmbedding(8, 16, guidance_width=6)
    x, guidance = normal(2, 8), normal(2, 6)
    assert torch.equal(plain(x, guidance), plain(x))
    assert not torch.equal(told(x, guidance), told(x))
    assert "cond_proj.weight" in told.state_dict()
    assert "cond_proj.bias" not in told.state_dict()


@pytest.mark.parametrize(("channels", "time_width"), [((8, 8), 16), ((8, 12), 16), ((8, 12), None)])
@pytest.mark.parametrize("eps", [1e-5, 1e-6, 0.5])
def test_the_residual_block_agrees_with_diffusers(
    channels: tuple[int, int], time_width: int | None, eps: float
) -> None:
    mine = ResBlock(*channels, time_width=time_width, groups=4, eps=eps)
    theirs = ResnetBlock2D(
        in_channels=channels[0],
        out_channels=channels[1],
        temb_channels=time_width,
        groups=4,
        eps=eps,
    )
    randomise(theirs)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    x = normal(2, channels[0], 7, 5)
    embedding = None if time_width is None else normal(2, time_width)
    told = None if embedding is None else torch.nn.functional.silu(embedding)
    torch.testing.assert_close(mine(x, told), theirs(x, embedding), atol=1e-5, rtol=1e-5)


def test_the_feed_forward_agrees_with_diffusers_and_gates_with_the_second_half() -> None:
    mine, theirs = FeedForward(8), TheirFeedForward(8, activation_fn="geglu")
    randomise(theirs)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    x = normal(2, 5, 8)
    torch.testing.assert_close(mine(x), theirs(x), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        mine.net[0].proj.weight[32:] = 0
        mine.net[0].proj.bias[32:] = -1e4  # a gate that lets nothing through
    torch.testing.assert_close(mine(x), mine.net[2].bias.expand(2, 5, 8))


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (2, 3)])
def test_sampling_up_and_down_agrees_with_diffusers(size: tuple[int, int]) -> None:
    x = normal(2, 4, *size)
    pairs = [
        (Downsample(4), Downsample2D(4, use_conv=True, padding=1, name="op")),
        (Downsample(4, asymmetric=True), Downsample2D(4, use_conv=True, padding=0, name="op")),
        (Upsample(4), Upsample2D(4, use_conv=True)),
    ]
    for mine, theirs in pairs:
        randomise(theirs)
        mine.load_state_dict({k: v for k, v in theirs.state_dict().items() if "op" not in k})
        torch.testing.assert_close(mine(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_sampling_up_reaches_the_size_that_was_rounded_on_the_way_down() -> None:
    for size in ((7, 5), (8, 9), (1, 1)):
        x = normal(1, 4, *size)
        assert Upsample(4)(Downsample(4)(x), size).shape == x.shape
