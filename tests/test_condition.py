"""What a network is told travels as one frozen value."""

from dataclasses import replace

import pytest
import torch

from safelight.condition import Condition, Control, ImagePrompt, expand, stack, stackable, to


def full(batch: int, value: float = 1.0) -> Condition:
    """A condition with every field filled."""
    return Condition(
        context=torch.full((batch, 7, 5), value),
        vector=torch.full((batch, 3), value),
        concat=torch.full((batch, 2, 4, 4), value),
        level=torch.full((batch,), int(value)),
        guidance=torch.full((batch,), value),
        controls=(Control("edges", torch.full((batch, 3, 8, 8), value)),),
        image_prompts=(ImagePrompt("plus", torch.full((batch, 4, 5), value)),),
    )


def tensors(condition: Condition) -> list[torch.Tensor]:
    plain = [getattr(condition, n) for n in ("context", "vector", "concat", "level", "guidance")]
    return [*plain, condition.controls[0].image, condition.image_prompts[0].tokens]


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
