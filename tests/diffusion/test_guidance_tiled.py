"""Tiled diffusion: windows of a large picture, what each is told, and the mean of what they say."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from guidance_toy import NEGATIVE, OTHER, POSITIVE, SD, SIGMA, Toy, context, latents, near
from safelight.condition import Condition, Control, ImagePrompt
from safelight.diffusion.denoiser import Denoiser
from safelight.diffusion.guidance import (
    Part,
    Tiled,
    Window,
    Windows,
    guided,
    regions,
    self_attention_guided,
    within,
)
from safelight.errors import RequestError

WINDOWS = Windows(height=6, width=6, overlap=2)


def wide(height: int = 8, width: int = 21, batch: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(4)
    return 3 * torch.randn(batch, 4, height, width, generator=rng)


def pixelwise(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """A network that sees nothing but the place itself, and what it is told of the place."""
    said = (
        x.tanh()
        + 0.001 * time[:, None, None, None]
        + condition.context.mean((1, 2))[:, None, None, None]
    )
    for extra in (condition.concat, *(c.image[:, :, ::8, ::8] for c in condition.controls)):
        if extra is not None:
            said = said + extra[:, :1]
    return said


def recorded(shapes: list[tuple[int, ...]]) -> Callable[[Tensor, Tensor, Condition], Tensor]:
    def network(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        assert len(time) == condition.batch == len(x)
        shapes.append(tuple(x.shape))
        return x

    return network


# -- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 6, 7, 10, 11, 21, 64, 257])
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("overlap", [0, 1, 3, 5])
def test_windows_cover_every_place_and_share_at_least_their_overlap(
    length: int, wrap: bool, overlap: int
) -> None:
    windows = Windows(6, 6, overlap, wrap_x=wrap).over(3, length)
    assert {w.height for w in windows} == {3} and {w.top for w in windows} == {0}
    covered = {column % length for w in windows for column in range(w.left, w.left + w.width)}
    assert covered == set(range(length))
    assert all(0 <= w.left < length for w in windows)
    assert wrap or all(w.left + w.width <= length for w in windows)
    starts = [w.left for w in windows] + ([length] if wrap and len(windows) > 1 else [])
    steps = [b - a for a, b in pairwise(starts)]
    assert all(0 < step <= 6 - overlap for step in steps)
    if len(windows) > 1:  # one fewer would not do
        reach = length - overlap * (not wrap)
        assert (len(windows) - 1) * (6 - overlap) < reach


def test_settings_that_leave_no_step_are_refused() -> None:
    with pytest.raises(RequestError, match="less than their sides"):
        Windows(8, 4, 4)
    with pytest.raises(RequestError, match="1 window or more"):
        Windows(batch=0)


# -- what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["uniform", "gaussian"])
def test_one_window_is_the_network_itself_bit_for_bit(weighting: str) -> None:
    x = latents()
    plain = guided(Denoiser(Toy(), SD), POSITIVE, NEGATIVE, 5.0)(x, SIGMA)
    tiled = Tiled(Toy(), Windows(8, 8, 2, weighting=weighting))
    assert torch.equal(guided(Denoiser(tiled, SD), POSITIVE, NEGATIVE, 5.0)(x, SIGMA), plain)


@pytest.mark.parametrize("weighting", ["uniform", "gaussian"])
@pytest.mark.parametrize("wrap", [(False, False), (True, False), (True, True)])
def test_a_network_that_sees_single_places_says_the_same_in_tiles(
    weighting: str, wrap: tuple[bool, bool]
) -> None:
    x, time = wide(11), torch.tensor([300.0, 20.0])
    image = torch.rand(2, 3, 88, 168, generator=torch.Generator().manual_seed(1))
    concat = wide(11).flip(0)
    told = replace(context(1, 2), concat=concat, controls=(Control("edges", image),))
    windows = replace(WINDOWS, weighting=weighting, wrap_x=wrap[0], wrap_y=wrap[1], batch=3)
    assert near(Tiled(pixelwise, windows)(x, time, told), pixelwise(x, time, told))


@pytest.mark.parametrize("weighting", ["uniform", "gaussian"])
def test_each_place_is_the_weighted_mean_of_what_its_windows_say(weighting: str) -> None:
    x, time = wide(6, 14, 1), torch.tensor([100.0])
    windows = replace(WINDOWS, weighting=weighting)
    ours = Tiled(Toy(), windows)(x, time, POSITIVE)
    total, weights = torch.zeros_like(x), torch.zeros(14)
    places = (torch.arange(6) - 2.5) / 6
    bell = torch.exp(-places.square() / 0.02) if weighting == "gaussian" else torch.ones(6)
    for left in (0, 4, 8):
        said = Toy()(x[..., left : left + 6], time, POSITIVE)
        total[..., left : left + 6] += said * bell
        weights[left : left + 6] += bell
    assert near(ours, total / weights)
    # at a place that one window alone sees, it alone is heard
    assert near(ours[..., :4], Toy()(x[..., :6], time, POSITIVE)[..., :4])


@pytest.mark.parametrize("batch", [2, 3, 100])
def test_the_number_of_windows_in_a_call_changes_nothing(batch: int) -> None:
    x, time = wide(13), torch.tensor([300.0, 20.0])
    told = context(2, 2)
    one = Tiled(Toy(), WINDOWS)(x, time, told)
    assert near(Tiled(Toy(), replace(WINDOWS, batch=batch))(x, time, told), one)


def test_windows_share_network_calls_and_guidance_goes_on_top() -> None:
    shapes: list[tuple[int, ...]] = []
    tiled = Tiled(recorded(shapes), replace(WINDOWS, batch=3))
    guided(Denoiser(tiled, SD), POSITIVE, NEGATIVE, 5.0)(wide(6, 20), SIGMA)
    # 5 windows, of two pictures with two conditions each
    assert shapes == [(12, 4, 6, 6), (8, 4, 6, 6)]


def test_windows_that_go_round_make_a_rolled_picture_of_a_rolled_one() -> None:
    windows = replace(WINDOWS, overlap=2, wrap_x=True)  # every 4 places of 20
    x, time = wide(6, 20), torch.tensor([300.0, 20.0])
    tiled = Tiled(Toy(), windows)
    rolled = tiled(x.roll(8, 3), time, context(2))
    assert near(tiled(x, time, context(2)).roll(8, 3), rolled)
    open_ended = Tiled(Toy(), replace(windows, wrap_x=False))
    assert not near(
        open_ended(x, time, context(2)).roll(8, 3), open_ended(x.roll(8, 3), time, context(2))
    )


def test_the_network_itself_goes_round_only_where_one_window_covers_the_picture() -> None:
    windows = Windows(8, 8, 2, wrap_x=True, wrap_y=True)
    assert windows.ends_meet(8, 20) == (False, True)
    assert windows.ends_meet(20, 6) == (True, False)
    assert Windows(8, 8, 2).ends_meet(8, 8) == (False, False)


def test_windows_where_nobody_looks_are_left_out() -> None:
    shapes: list[tuple[int, ...]] = []
    only = torch.zeros(1, 1, 6, 20)
    only[..., 13:15] = 0.5
    x, time = wide(6, 20), torch.tensor([300.0, 20.0])
    some = Tiled(recorded(shapes), WINDOWS, only=only)(x, time, context(2))
    assert len(shapes) == 2  # of 5
    assert near(some[..., 13:15], x[..., 13:15]) and some[..., :8].eq(0).all()


def test_regions_of_prompts_go_together_with_tiles() -> None:
    x = wide(6, 20)
    left = torch.zeros(1, 1, 6, 20)
    left[..., :10] = 1

    def drawn(network: object, **only: Tensor) -> Tensor:
        a = guided(Denoiser(Tiled(network, WINDOWS, **only), SD), POSITIVE, NEGATIVE, 5.0)
        b = guided(Denoiser(Tiled(network, WINDOWS), SD), OTHER, NEGATIVE, 5.0)
        return regions([(a, left), (b, 1 - left)])(x, SIGMA)

    thrifty, full = Toy(), Toy()
    assert near(drawn(thrifty, only=left), drawn(full))
    assert len(thrifty.calls) < len(full.calls)


def test_a_part_is_drawn_as_a_picture_by_itself() -> None:
    x, time = wide(8, 21), torch.tensor([300.0, 20.0])
    said = Part(Toy(), Window(2, 3, 6, 10))(x, time, context(2))
    assert near(said[:, :, 2:8, 3:13], Toy()(x[:, :, 2:8, 3:13], time, context(2, 1)))
    said[:, :, 2:8, 3:13] = 0
    assert said.eq(0).all()


# -- what a window is told ------------------------------------------------------------------------


def test_a_window_is_told_what_lies_there() -> None:
    rng = torch.Generator().manual_seed(1)
    concat = torch.rand(2, 5, 8, 21, generator=rng)
    image = torch.rand(2, 3, 64, 168, generator=rng)
    mask = torch.rand(2, 1, 8, 21, generator=rng)
    seen = (torch.rand(2, 7, 8, 21, generator=rng), torch.rand(2, 7, 4, 10, generator=rng))
    tokens = torch.rand(2, 3, 4, generator=rng)
    told = within(
        replace(
            context(1, 2),
            concat=concat,
            controls=(
                Control("edges", image, 0.5, seen=seen[:1]),
                Control("adapter", image, seen=seen),
            ),
            image_prompts=(ImagePrompt("a", tokens, mask=mask), ImagePrompt("b", tokens)),
        ),
        Window(1, 18, 6, 6),
        8,
        21,
    )
    columns = [18, 19, 20, 0, 1, 2]
    assert told.concat is not None and torch.equal(told.concat, concat[:, :, 1:7, columns])
    pixels = [8 * c + i for c in columns for i in range(8)]
    assert torch.equal(told.controls[0].image, image[:, :, 8:56, pixels])
    assert torch.equal(told.controls[0].seen[0], seen[0][:, :, 1:7, columns])
    assert told.controls[0].scale == 0.5
    assert told.controls[1].seen == ()  # of another size: looked at again
    assert told.image_prompts[0].mask is not None
    assert torch.equal(told.image_prompts[0].mask, mask[:, :, 1:7, columns])
    assert told.image_prompts[1].mask is None
    assert torch.equal(told.context, context(1, 2).context)


@pytest.mark.parametrize("shape", [(64, 160), (60, 168), (4, 10)])
def test_a_picture_that_does_not_lie_on_the_latents_is_refused(shape: tuple[int, int]) -> None:
    told = replace(context(1), controls=(Control("edges", torch.rand(1, 3, *shape)),))
    with pytest.raises(RequestError, match="does not lie on latents of 21 x 8"):
        within(told, Window(0, 0, 6, 6), 8, 21)


def test_a_window_may_be_told_where_it_is() -> None:
    def moved(condition: Condition, window: Window) -> Condition:
        return replace(condition, vector=torch.tensor([[8.0 * window.top, 8.0 * window.left]]))

    toy = Toy()
    Tiled(toy, WINDOWS, told=moved)(wide(6, 20, 1), torch.tensor([1.0]), context(1))
    corners = [
        condition.vector.tolist() for _, condition in toy.calls if condition.vector is not None
    ]
    assert corners == [[[0.0, 8.0 * left]] for left in (0, 4, 7, 10, 14)]


def test_self_attention_guidance_says_why_it_cannot_go_with_tiles() -> None:
    denoise = self_attention_guided(Denoiser(Tiled(Toy(), WINDOWS), SD), POSITIVE, NEGATIVE, 5.0)
    with pytest.raises(RequestError, match="draw without tiles"):
        denoise(wide(), SIGMA)
