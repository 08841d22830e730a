"""Laws of token merging, and Bolya and Hoffman's algorithm written out naively as its oracle."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from safelight.condition import Condition, ImagePrompt, Intervention
from safelight.errors import RequestError
from safelight.models.attention import Nudge
from safelight.models.backbone import Backbone
from safelight.models.token_merging import PARTS, Merging, _nearest, _parted, joined
from safelight.models.unet_blocks import Told, TransformerBlock
from unet_published import TINY_CONTEXT, twins

SIZES = [(8, 8), (6, 4), (7, 5), (2, 2)]


def tokens(batch: int = 2, size: tuple[int, int] = (8, 8), width: int = 6, seed: int = 1) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, size[0] * size[1], width, generator=rng, dtype=torch.float64)


def naive(x: Tensor, size: tuple[int, int], merging: Merging) -> tuple[list[list[int]], list[int]]:
    """For each token of one picture those that are averaged with it, and who speaks for it.

    One token at a time, in plain Python, from the paper: the source most like a destination goes
    first.
    """
    sources, destinations = (part.tolist() for part in _parted(*size, merging.seed))
    values = x.tolist()

    def alike(a: int, b: int) -> float:
        dot = sum(p * q for p, q in zip(values[a], values[b], strict=True))
        return dot / math.hypot(*values[a]) / math.hypot(*values[b])

    best = {s: max(destinations, key=lambda d: alike(s, d)) for s in sources}
    count = min(int(len(values) * merging.ratio), len(sources))
    going = sorted(sources, key=lambda s: -alike(s, best[s]))[:count]
    speaker = [best[t] if t in going else t for t in range(len(values))]
    groups = [[t for t in range(len(values)) if speaker[t] == one] for one in range(len(values))]
    return groups, speaker


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("size", SIZES)
def test_merging_and_splitting_are_the_naive_algorithm(size: tuple[int, int], ratio: float) -> None:
    x, merging = tokens(size=size), Merging(ratio)
    alike = joined(x, size, merging)
    assert alike is not None
    back = alike.split(alike.merge(x, "self"), "self")
    for k, picture in enumerate(x):
        groups, speaker = naive(picture, size, merging)
        for token, one in enumerate(speaker):
            expected = picture[groups[one]].mean(0)
            torch.testing.assert_close(back[k, token], expected, atol=1e-12, rtol=0)
    assert alike.merge(x, "self").shape[1] == x.shape[1] - min(
        int(x.shape[1] * ratio), x.shape[1] - (size[0] // 2) * (size[1] // 2)
    )


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 3)])
def test_each_cell_has_one_destination_and_every_token_one_place(size: tuple[int, int]) -> None:
    sources, destinations = _parted(*size, 0)
    assert sorted([*sources.tolist(), *destinations.tolist()]) == list(range(size[0] * size[1]))
    cells = {(d // size[1] // 2, d % size[1] // 2) for d in destinations.tolist()}
    assert len(cells) == len(destinations) == (size[0] // 2) * (size[1] // 2)


def test_a_batch_merges_each_picture_as_if_alone() -> None:
    x = tokens(3)
    together = joined(x, (8, 8), Merging(0.5))
    assert together is not None
    for k in range(3):
        alone = joined(x[k : k + 1], (8, 8), Merging(0.5))
        assert alone is not None
        assert torch.equal(alone.merge(x[k : k + 1], "self")[0], together.merge(x, "self")[k])


def test_parts_that_do_not_merge_see_all_tokens() -> None:
    x = tokens()
    alike = joined(x, (8, 8), Merging(0.5, parts=("cross",)))
    assert alike is not None
    assert alike.merge(x, "self") is x and alike.split(x, "feed-forward") is x
    assert alike.merge(x, "cross").shape[1] == 32


def test_too_small_a_ratio_or_map_merges_nothing() -> None:
    assert joined(tokens(), (8, 8), Merging(0.001)) is None
    assert joined(tokens(size=(1, 9)), (1, 9), Merging(0.5)) is None


def test_likeness_in_pieces_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = tokens(), tokens(seed=2)[:, :20]
    whole = _nearest(a, b)
    monkeypatch.setattr("safelight.models.token_merging._SCORES", 100)
    parts = _nearest(a, b)
    assert torch.equal(whole[1], parts[1])
    torch.testing.assert_close(whole[0], parts[0], atol=1e-12, rtol=0)


def test_gradients_flow_through_merged_tokens() -> None:
    x = tokens(1).requires_grad_()
    alike = joined(x, (8, 8), Merging(0.75))
    assert alike is not None
    alike.split(alike.merge(x, "self"), "self").square().sum().backward()
    assert x.grad is not None and bool((x.grad.abs().sum(-1) > 0).all())


@pytest.mark.parametrize("part", PARTS)
@torch.no_grad()
def test_each_part_of_a_block_works_on_merged_tokens(part: str) -> None:
    block = TransformerBlock(16, 2, 12).double().eval()
    x, context = tokens(width=16), tokens(size=(1, 5), width=12, seed=3)
    merging = Merging(0.5, parts=(part,))  # type: ignore[arg-type]
    told = Told(torch.zeros(2, 4), context, merging=merging)
    alike = joined(x, (8, 8), merging)
    assert alike is not None

    def at(name: str, y: Tensor, layer: torch.nn.Module, *more: Tensor) -> Tensor:
        if part != name:
            return layer(y, *more)
        return alike.split(layer(alike.merge(y, name), *more), name)  # type: ignore[arg-type]

    expected = x + at("self", block.norm1(x), block.attn1)
    expected = expected + at("cross", block.norm2(expected), block.attn2, context)
    expected = expected + at("feed-forward", block.norm3(expected), block.ff)
    torch.testing.assert_close(block(x, told, (8, 8)), expected, atol=1e-12, rtol=0)


def told(**changes: object) -> Condition:
    rng = torch.Generator().manual_seed(5)
    context = torch.randn(2, 7, TINY_CONTEXT, generator=rng)
    return Condition(context, intervention=Intervention(**changes))  # type: ignore[arg-type]


X = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(6))
TIME = torch.tensor([500.0, 20.0])


@torch.no_grad()
def test_a_ratio_of_0_is_the_network_bit_for_bit() -> None:
    network = Backbone(twins("sd15")[0])
    plain = network(X, TIME, told())
    assert torch.equal(plain, network(X, TIME, told(merged=0.0, merged_levels=3)))
    assert not torch.equal(plain, network(X, TIME, told(merged=0.5)))


@torch.no_grad()
def test_a_larger_ratio_moves_the_answer_further_and_more_levels_do() -> None:
    network = Backbone(twins("sd15")[0])
    plain = network(X, TIME, told())
    far = [float((network(X, TIME, told(merged=r)) - plain).norm()) for r in (0.1, 0.4, 0.75)]
    assert 0 < far[0] < far[1] < far[2]
    deeper = network(X, TIME, told(merged=0.4, merged_levels=2))
    assert not torch.equal(deeper, network(X, TIME, told(merged=0.4)))


@torch.no_grad()
def test_a_picture_is_the_same_in_any_batch() -> None:
    network = Backbone(twins("sd15")[0])
    asked = told(merged=0.5, merged_parts=PARTS)
    alone = network(X[1:], TIME[1:], replace(asked, context=asked.context[1:]))
    torch.testing.assert_close(network(X, TIME, asked)[1:], alone, atol=1e-5, rtol=0)


def test_what_needs_all_tokens_is_refused_by_name() -> None:
    network = Backbone(twins("sd15")[0])
    nudged = replace(network, nudges=(Nudge(lambda name, x: None),))
    with pytest.raises(RequestError, match="hypernetworks and LLLite add to each token"):
        nudged(X, TIME, told(merged=0.5))
    prompt = ImagePrompt("ip", torch.zeros(2, 4, TINY_CONTEXT), mask=torch.ones(2, 1, 8, 8))
    asked = told(merged=0.5, merged_parts=("cross",))
    with pytest.raises(RequestError, match="with a mask need all tokens"):
        network._merging(replace(asked, image_prompts=(prompt,)), None)
