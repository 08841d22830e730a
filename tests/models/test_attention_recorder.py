"""Laws of observers, and of the maps of attention that are summed while a network runs."""

from collections.abc import Callable

import pytest
import torch
from diffusers.models.attention_processor import Attention as TheirAttention
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.errors import RequestError
from safelight.models.attention import Look, named_attentions
from safelight.models.attention_recorder import AttentionRecorder
from safelight.models.unet import UNet, UNetConfig
from unet_published import TINY_CONTEXT, TINY_VECTOR, twins

TOKENS = 7


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(name: str, size: tuple[int, int], batch: int = 1) -> dict[str, Tensor]:
    told = {
        "x": normal(batch, 4, *size, seed=1),
        "time": torch.tensor(321.0),
        "context": normal(1, TOKENS, TINY_CONTEXT, seed=2).expand(batch, -1, -1).contiguous(),
    }
    if name == "sdxl":
        told["vector"] = normal(batch, TINY_VECTOR, seed=3)
    return told


class Everything:
    """An observer that wants to be told of all, and keeps the looks."""

    def __init__(self) -> None:
        self.looks: list[Look] = []

    def wants(self, module: str, cross: bool) -> bool:
        return True

    def saw(self, look: Look) -> None:
        self.looks.append(look)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_an_observer_is_told_of_every_attention_and_changes_no_bit(name: str) -> None:
    unet, told, watch = twins(name)[0], inputs(name, (16, 24)), Everything()
    with torch.no_grad():
        assert torch.equal(unet(**told, observer=watch), unet(**told))
    assert sorted(look.module for look in watch.looks) == sorted(named_attentions(unet))
    for look in watch.looks:
        module = unet.get_submodule(look.module)
        assert look.cross == look.module.endswith("attn2")
        assert look.size[0] * look.size[1] == look.query.shape[1]
        assert look.size[1] * 2 == look.size[0] * 3
        assert look.heads == module.heads
        assert torch.equal(look.key, module.to_k(look.source))
        if look.cross:
            assert torch.equal(look.source, told["context"])


def test_an_observer_is_told_of_what_it_wants_only() -> None:
    class Middle(Everything):
        def wants(self, module: str, cross: bool) -> bool:
            return module.startswith("mid_block") and not cross

    unet, watch = twins("sd15")[0], Middle()
    with torch.no_grad():
        unet(**inputs("sd15", (8, 8)), observer=watch)
    assert [look.module for look in watch.looks] == [
        "mid_block.attentions.0.transformer_blocks.0.attn1"
    ]


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("size", [(8, 8), (7, 13)])
def test_maps_of_one_call_sum_to_1_over_tokens(name: str, size: tuple[int, int]) -> None:
    told = inputs(name, size)
    recorder = AttentionRecorder({"it": told["context"]})
    with torch.no_grad():
        plain = twins(name)[0](**told)
        assert torch.equal(twins(name)[0](**told, observer=recorder), plain)
    maps = recorder.maps("it", size)
    assert maps.shape == (TOKENS, *size) and maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum(0), torch.ones(size))
    assert maps.min() >= 0


class Recording:
    """Diffusers' attention, written out, that keeps its maps: (heads, N, L) each."""

    def __init__(self, keep: Callable[[Tensor], None]) -> None:
        self.keep = keep

    def __call__(
        self,
        attn: TheirAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(x)
            for x in (attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source))
        )
        weights = attn.get_attention_scores(query, key)
        if encoder_hidden_states is not None:
            self.keep(weights)
        return attn.to_out[0](attn.batch_to_head_dim(weights @ value))


@pytest.mark.parametrize(("name", "size"), [("sd15", (8, 8)), ("sdxl", (12, 8))])
@pytest.mark.parametrize("coarsest", [1, 2, 8])
def test_the_maps_are_those_of_diffusers_attention_upsampled_head_by_head(
    name: str, size: tuple[int, int], coarsest: int
) -> None:
    ours, theirs = twins(name)
    told, kept = inputs(name, size), []
    before = theirs.attn_processors
    theirs.set_attn_processor(Recording(kept.append))
    recorder = AttentionRecorder({"it": told["context"]})
    with torch.no_grad():
        added = {}
        if name == "sdxl":
            # Both sides are told the same vector: theirs makes it of a text and six numbers.
            added["added_cond_kwargs"] = {
                "text_embeds": told["vector"][:, : TINY_VECTOR - 12],
                "time_ids": torch.zeros(1, 3),
            }
            zeros = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(3)[None]
            told["vector"] = torch.cat([told["vector"][:, : TINY_VECTOR - 12], zeros], dim=1)
        theirs(told["x"], told["time"], told["context"], **added)
        ours(**told, observer=recorder)
    theirs.set_attn_processor(before)
    expected, heads = torch.zeros(TOKENS, *size), 0
    for weights in kept:
        factor = round((size[0] * size[1] / weights.shape[1]) ** 0.5)
        if factor > coarsest and any(w.shape[1] * coarsest**2 >= size[0] * size[1] for w in kept):
            continue
        small = (size[0] // factor, size[1] // factor)
        for head in weights:
            map_ = head.T.unflatten(1, small)[None]
            expected += F.interpolate(map_, size=size, mode="bicubic")[0]
            heads += 1
    expected = (expected / heads).clamp(min=0)
    maps = recorder.maps("it", size, coarsest=coarsest)
    torch.testing.assert_close(maps, expected / expected.sum(0), atol=1e-5, rtol=1e-4)


def rigged() -> tuple[UNet, Tensor]:
    """A U-Net in which bright places look at the first token and dark ones at the second.

    Residual blocks and values are silent, so every attention sees the latents' first channel.
    Returns it with a context of three tokens.
    """
    config = UNetConfig(
        channels=(4,), depths=((1,),), mid_depth=None, heads=(1,), context_width=3, groups=1
    )
    unet = UNet(config)
    for parameter in unet.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        unet.conv_in.weight[0, 0, 1, 1] = 1  # the first channel, and its opposite
        unet.conv_in.weight[1, 0, 1, 1] = -1
        for name, module in unet.named_modules():
            if name.endswith("conv_shortcut"):
                module.weight[:, 4:, 0, 0] = torch.eye(4)  # the skip alone
            if name.endswith(("attentions.0", "attentions.1")):
                module.norm.weight.fill_(1)
                module.proj_in.weight[:, :, 0, 0] = torch.eye(4)
            if name.endswith("attn2"):
                module.to_q.weight[0, 0] = 4.0
                module.to_k.weight[0] = torch.tensor([1.0, -1.0, 0.0])
            if name.endswith("norm2") and "transformer_blocks" in name:
                module.weight.fill_(1)
    return unet, torch.eye(3)[None]


def test_a_rigged_network_gives_the_map_that_it_was_rigged_for() -> None:
    unet, context = rigged()
    x = -torch.ones(1, 4, 6, 5)
    x[:, :, :, :2] = 1.0
    x += 0.01 * normal(1, 1, 6, 5)
    recorder = AttentionRecorder({"it": context})
    with torch.no_grad():
        for time in (900.0, 500.0, 100.0):
            unet(x, torch.tensor(time), context, observer=recorder)
    # LayerNorm of (a, -a, 0, 0) is (√2, -√2, 0, 0); scores are q k / √4.
    scores = torch.tensor([1.0, -1.0, 0.0]) * 2**0.5 * 4 / 2
    bright, dark = torch.softmax(scores, 0), torch.softmax(-scores, 0)
    expected = torch.where(x[0, :1] > 0, bright[:, None, None], dark[:, None, None])
    torch.testing.assert_close(recorder.maps("it", (6, 5)), expected, atol=1e-4, rtol=1e-4)


def test_other_rows_of_a_batch_do_not_count_and_pictures_stay_apart() -> None:
    unet, context = twins("sd15")[0], normal(1, TOKENS, TINY_CONTEXT, seed=2)
    negative, x = normal(1, TOKENS, TINY_CONTEXT, seed=9), normal(2, 4, 8, 8, seed=1)
    stacked, alone = AttentionRecorder({"it": context}), AttentionRecorder({"it": context})
    second = AttentionRecorder({"it": context[0]})
    time = torch.tensor(500.0)
    told = torch.cat([negative, negative, context, context])
    with torch.no_grad():
        unet(x.repeat(2, 1, 1, 1), time, told, observer=stacked)
        unet(x, time, context.expand(2, -1, -1), observer=alone)
        unet(x[1:], time, context, observer=second)
    assert stacked.pictures("it") == alone.pictures("it") == 2
    for picture in (0, 1):
        torch.testing.assert_close(
            stacked.maps("it", (8, 8), picture=picture), alone.maps("it", (8, 8), picture=picture)
        )
    torch.testing.assert_close(second.maps("it", (8, 8)), alone.maps("it", (8, 8), picture=1))
    assert not torch.allclose(alone.maps("it", (8, 8)), second.maps("it", (8, 8)), atol=1e-4)


def test_each_of_several_texts_has_its_maps_whatever_its_type() -> None:
    unet = UNet(twins("sd15")[0].config).eval().to(torch.bfloat16)
    texts = {name: normal(1, TOKENS, TINY_CONTEXT, seed=s) for s, name in enumerate("ab")}
    recorder = AttentionRecorder(texts)
    x, time = normal(1, 4, 8, 8).bfloat16(), torch.tensor(500.0)
    with torch.no_grad():
        unet(x, time, texts["b"].bfloat16(), observer=recorder)
    assert recorder.pictures("b") == 1 and recorder.pictures("a") == 0
    torch.testing.assert_close(recorder.maps("b", (8, 8)).sum(0), torch.ones(8, 8))
    with pytest.raises(RequestError, match="no attention to this text was recorded for picture 0"):
        recorder.maps("a", (8, 8))


def test_memory_does_not_grow_with_steps_and_maps_are_their_mean() -> None:
    unet, told = twins("sd15")[0], inputs("sd15", (8, 8))
    once, often = (AttentionRecorder({"it": told["context"]}) for _ in range(2))
    with torch.no_grad():
        unet(**told, observer=once)
        for _ in range(5):
            unet(**told, observer=often)

    def held(recorder: AttentionRecorder) -> int:
        return sum(m.numel() for s in recorder._sums.values() for m in s.maps.values())

    assert held(once) == held(often) <= TOKENS * (8 * 8 + 4 * 4 + 2 * 2 + 1)
    torch.testing.assert_close(once.maps("it", (8, 8)), often.maps("it", (8, 8)))


def test_gradients_are_neither_needed_nor_stopped() -> None:
    unet, told = twins("sd15")[0], inputs("sd15", (8, 8))
    recorder = AttentionRecorder({"it": told["context"]})
    told["x"].requires_grad_()
    unet(**told, observer=recorder).square().mean().backward()
    assert told["x"].grad is not None and told["x"].grad.abs().max() > 0
    assert not recorder.maps("it", (8, 8)).requires_grad


def test_a_call_that_overflows_leaves_nothing_behind() -> None:
    unet, told = twins("sd15")[0], inputs("sd15", (8, 8))
    clean, mixed = (AttentionRecorder({"it": told["context"]}) for _ in range(2))
    broken = told | {"x": torch.full((1, 4, 8, 8), torch.nan)}
    with torch.no_grad():
        unet(**broken, observer=mixed)
        for recorder in (clean, mixed):
            unet(**told, observer=recorder)
    torch.testing.assert_close(mixed.maps("it", (8, 8)), clean.maps("it", (8, 8)))
