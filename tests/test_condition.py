"""What a network is told travels as one frozen value."""

from dataclasses import replace

import pytest
import torch

from safelight.condition import (
    Condition,
    Control,
    ImagePrompt,
    active,
    bounded,
    expand,
    pick,
    stack,
    stackable,
    to,
)


def full(batch: int, value: float = 1.0) -> Condition:
    """A condition with every field filled."""
    return Condition(
        context=torch.full((batch, 7, 5), value),
        vector=torch.full((batch, 3), value),
        concat=torch.full((batch, 2, 4, 4), value),
        level=torch.full((batch,), int(value)),
        guidance=torch.full((batch,), value),
        controls=(
            Control(
                "edges",
                torch.full((batch, 3, 8, 8), value),
                seen=(torch.full((batch, 6, 4, 4), value),),
            ),
        ),
        image_prompts=(
            ImagePrompt(
                "plus",
                torch.full((batch, 4, 5), value),
                mask=torch.full((batch, 1, 4, 4), value),
            ),
        ),
    )


def tensors(condition: Condition) -> list[torch.Tensor]:
    plain = [getattr(condition, n) for n in ("context", "vector", "concat", "level", "guidance")]
    control, prompt = condition.controls[0], condition.image_prompts[0]
    assert prompt.mask is not None
    return [*plain, control.image, *control.seen, prompt.tokens, prompt.mask]


def test_stacked_conditions_keep_their_order_in_every_field() -> None:
    stacked = stack([full(1, 1.0), full(1, 2.0)])
    assert stacked.batch == 2
    for tensor in tensors(stacked):
        assert (tensor[0] == 1).all() and (tensor[1] == 2).all()


@pytest.mark.parametrize("field", ["vector", "concat", "level", "guidance"])
def test_conditions_of_different_kinds_are_not_stackable(field: str) -> None:
    assert stackable([full(1), full(1)])
    other = replace(full(1), **{field: None})
    assert not stackable([full(1), other])
    with pytest.raises(ValueError, match="differ"):
        stack([full(1), other])


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.5},
        {"weights": (1.0, 0.5)},
        {"high": 3.0},
        {"low": 1.0},
        {"types": (1,)},
        {"net": "depth"},
        {"seen": ()},
        {"image": torch.zeros(1, 3, 4, 8)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_controls_that_differ_are_not_stackable(change: dict[str, object]) -> None:
    other = replace(full(1), controls=(replace(full(1).controls[0], **change),))
    assert not stackable([full(1), other])
    assert not stackable([full(1), replace(full(1), controls=())])


@pytest.mark.parametrize(
    "change",
    [{"scale": 0.5}, {"high": 3.0}, {"low": 1.0}, {"adapter": "face"}, {"mask": None}],
    ids=lambda change: next(iter(change)),
)
def test_image_prompts_that_differ_are_not_stackable(change: dict[str, object]) -> None:
    prompt = replace(full(1).image_prompts[0], **change)
    assert not stackable([full(1), replace(full(1), image_prompts=(prompt,))])


def test_what_acts_in_a_range_acts_from_its_high_to_above_its_low() -> None:
    whole = full(1)
    assert not bounded(whole) and active(whole, 5.0) is whole
    control, prompt = whole.controls[0], whole.image_prompts[0]
    some = replace(
        whole,
        controls=(control, replace(control, high=2.0, low=1.0)),
        image_prompts=(replace(prompt, low=1.5),),
    )
    assert bounded(some)
    acting = {
        sigma: (len(active(some, sigma).controls), len(active(some, sigma).image_prompts))
        for sigma in (9.0, 2.0, 1.5, 1.0, 0.0)
    }
    assert acting == {9.0: (1, 1), 2.0: (2, 1), 1.5: (2, 0), 1.0: (1, 0), 0.0: (1, 0)}


def test_some_pictures_can_be_picked_in_every_field() -> None:
    picked = pick(stack([full(1, 1.0), full(1, 2.0), full(1, 3.0)]), [2, 0])
    for tensor in tensors(picked):
        assert (tensor[0] == 3).all() and (tensor[1] == 1).all()


def test_contexts_of_different_length_are_not_stackable() -> None:
    assert not stackable([full(1), replace(full(1), context=torch.zeros(1, 14, 5))])


def test_one_condition_serves_a_batch_in_every_field() -> None:
    assert all(t.shape[0] == 3 for t in tensors(expand(full(1), 3)))
    assert expand(full(2), 2).batch == 2
    with pytest.raises(ValueError, match="2 pictures cannot serve 3"):
        expand(full(2), 3)


def test_casting_leaves_integers_alone() -> None:
    cast = to(full(1), dtype=torch.bfloat16)
    assert cast.level is not None and cast.level.dtype == torch.int64
    assert all(t.dtype == torch.bfloat16 for t in tensors(cast) if t is not cast.level)
