"""Laws of attention, its map, its identity and its door for image prompts."""

import pytest
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from diffusers.models.attention_processor import Attention as TheirAttention
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from torch import Tensor, nn

from safelight.models.attention import (
    Attention,
    ImageTokens,
    Reference,
    attend,
    attention_map,
    join_heads,
    mask_of_tokens,
    named_attentions,
    split_heads,
    tell_names,
)
from unet_published import randomise


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Branch(nn.Module):
    """Attention of the same queries to image tokens, as an image-prompt adapter adds it."""

    def __init__(self, context_width: int, width: int) -> None:
        super().__init__()
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        heads = query.shape[1]
        weights = attention_map(join_heads(query), self.to_k(tokens), heads)
        return weights @ split_heads(self.to_v(tokens), heads)


def slow(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """One picture, one head and one token at a time, in float64."""
    out = torch.zeros_like(query, dtype=torch.float64)
    width = query.shape[-1] // heads
    for b in range(query.shape[0]):
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            for n in range(query.shape[1]):
                scores = key[b, :, part].double() @ query[b, n, part].double() / width**0.5
                weights = (scores - scores.max()).exp()
                out[b, n, part] = (weights / weights.sum()) @ value[b, :, part].double()
    return out


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_attention_is_the_weighted_mean_of_the_values(heads: int) -> None:
    q, k, v = normal(2, 4, 6, seed=1), normal(2, 5, 6, seed=2), normal(2, 5, 6, seed=3)
    expected = slow(q, k, v, heads).float()
    torch.testing.assert_close(attend(q, k, v, heads), expected)
    seen = attention_map(q, k, heads) @ split_heads(v, heads)
    torch.testing.assert_close(join_heads(seen), expected)


def test_masked_tokens_are_as_good_as_absent() -> None:
    q, k, v = normal(2, 4, 6, seed=1), normal(2, 5, 6, seed=2), normal(2, 5, 6, seed=3)
    may_look = torch.tensor([True, True, True, False, False]).expand(2, 1, 4, 5)
    added = torch.zeros(2, 1, 4, 5).masked_fill(~may_look, float("-inf"))
    expected = attend(q, k[:, :3], v[:, :3], 2)
    torch.testing.assert_close(attend(q, k, v, 2, mask=may_look), expected)
    torch.testing.assert_close(attend(q, k, v, 2, mask=added), expected)


def test_heads_are_joined_as_they_were_split() -> None:
    x = normal(2, 5, 12)
    assert split_heads(x, 3).shape == (2, 3, 5, 4)
    assert torch.equal(join_heads(split_heads(x, 3)), x)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("context_width", [None, 10])
def test_the_module_agrees_with_diffusers(bias: bool, context_width: int | None) -> None:
    mine = Attention(12, 3, context_width=context_width, bias=bias)
    theirs = TheirAttention(
        query_dim=12, heads=3, dim_head=4, cross_attention_dim=context_width, bias=bias
    )
    randomise(theirs)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    x = normal(2, 9, 12)
    context = None if context_width is None else normal(2, 7, context_width)
    torch.testing.assert_close(mine(x, context), theirs(x, context), atol=1e-5, rtol=1e-5)


def test_the_map_has_rows_that_sum_to_1_and_leaves_the_output_as_it_is() -> None:
    module, x, context = Attention(12, 3, context_width=10), normal(2, 9, 12), normal(2, 7, 10)
    output, weights = module.with_map(x, context)
    assert torch.equal(output, module(x, context))
    assert weights.shape == (2, 3, 9, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 9))


def test_the_map_is_float32_whatever_the_type() -> None:
    x = normal(1, 4, 6).to(torch.bfloat16)
    assert attention_map(x, x, 2).dtype == torch.float32


def test_identity_is_attention_of_every_token_to_itself_alone() -> None:
    module, x = Attention(12, 3), normal(2, 5, 12)
    alone = torch.cat([module(x[:, i : i + 1]) for i in range(5)], dim=1)
    torch.testing.assert_close(module.identity(x), alone)
    assert (module.identity(x) - module(x)).abs().max() > 0.01


def test_an_empty_door_adds_no_keys() -> None:
    assert set(Attention(4, 2).state_dict()) == {
        "to_q.weight",
        "to_k.weight",
        "to_v.weight",
        "to_out.0.weight",
        "to_out.0.bias",
    }


def test_a_branch_agrees_with_diffusers_image_prompt_attention() -> None:
    mine = Attention(12, 3, context_width=10)
    theirs = TheirAttention(query_dim=12, heads=3, dim_head=4, cross_attention_dim=10)
    processor = IPAdapterAttnProcessor2_0(12, 10, num_tokens=(4,), scale=0.6)
    randomise(theirs)
    randomise(processor, seed=1)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    theirs.set_processor(processor)
    branch = Branch(10, 12)
    branch.to_k.weight.data = processor.to_k_ip[0].weight.data
    branch.to_v.weight.data = processor.to_v_ip[0].weight.data
    mine.branches["portrait"] = branch
    x, context, tokens = normal(2, 9, 12), normal(2, 7, 10), normal(2, 4, 10, seed=5)
    answer = mine(x, context, [ImageTokens("portrait", tokens, 0.6)])
    reference = theirs(x, (context, [tokens[:, None]]))
    torch.testing.assert_close(answer, reference, atol=1e-5, rtol=1e-5)


def test_branches_add_up_and_those_of_other_adapters_stay_silent() -> None:
    module, x, context = Attention(12, 3, context_width=10), normal(2, 9, 12), normal(2, 7, 10)
    before = module(x, context)
    module.branches["portrait"] = Branch(10, 12)
    one, two = (ImageTokens("portrait", normal(2, 4, 10, seed=s), 0.5) for s in (1, 2))
    assert torch.equal(module(x, context), before)
    assert torch.equal(module(x, context, [one._replace(adapter="other")]), before)
    both = module(x, context, [one, two]) - before
    torch.testing.assert_close(
        both, (module(x, context, [one]) - before) + (module(x, context, [two]) - before)
    )
    assert both.abs().max() > 0.01
    torch.testing.assert_close(module(x, context, [one._replace(scale=0.0)]), before)


def branched(width: int = 12) -> Attention:
    module = Attention(width, 3, context_width=10)
    module.branches["portrait"] = Branch(10, width)
    return module


@pytest.mark.parametrize("size", [(3, 4), (4, 3)])
def test_a_mask_of_any_size_acts_as_in_diffusers(size: tuple[int, int]) -> None:
    module, x, context = branched(), normal(2, 12, 12), normal(2, 7, 10)
    mask = (normal(1, 1, size[0] * 8, size[1] * 8, seed=4) > 0).float()
    tokens = normal(2, 4, 10, seed=5)
    prompt = ImageTokens("portrait", tokens, 0.7, mask)
    theirs = IPAdapterMaskProcessor.downsample(mask[0], 2, 12, 12)  # (2, 12, 12)
    torch.testing.assert_close(mask_of_tokens(mask, size).expand(2, -1, 12), theirs)
    plain, full = module(x, context), module(x, context, [prompt._replace(mask=None)])
    branch = join_heads(module.branches["portrait"](split_heads(module.to_q(x), 3), tokens))
    out = module.to_out[0]
    expected = plain + 0.7 * (branch * theirs) @ out.weight.T
    torch.testing.assert_close(module(x, context, [prompt], size=size), expected)
    assert (full - expected).abs().max() > 0.01


def test_a_scale_of_0_is_no_prompt_bit_for_bit() -> None:
    module, x, context = branched(), normal(2, 12, 12), normal(2, 7, 10)
    prompt = ImageTokens("portrait", normal(2, 4, 10, seed=5), 0.0)
    assert torch.equal(module(x, context, [prompt]), module(x, context))


def test_a_reference_is_looked_at_as_if_it_were_more_tokens() -> None:
    module, x, other = Attention(12, 3), normal(2, 9, 12), normal(2, 5, 12, seed=7)
    both = module(x, torch.cat([x, other], dim=1))
    torch.testing.assert_close(module(x, reference=Reference(other)), both)
    share = torch.tensor([0.0, 0.25])
    mixed = module(x, reference=Reference(other, share))
    assert torch.equal(mixed[0], module(x)[0])
    torch.testing.assert_close(mixed[1], 0.75 * module(x)[1] + 0.25 * both[1])


def test_names_are_those_of_the_network() -> None:
    network = nn.ModuleDict({"a": Attention(4, 1), "b": nn.ModuleList([Attention(4, 1)])})
    tell_names(network)
    assert {n: a.module for n, a in named_attentions(network).items()} == {"a": "a", "b.0": "b.0"}
