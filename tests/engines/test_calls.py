"""A call that is taken apart and put together is the same call."""

import pytest
import torch

from models_tiny import random
from safelight.engines.calls import put_together, taken_apart
from safelight.models.attention import ImageTokens
from safelight.models.unet import Residuals


def test_every_tensor_comes_out_and_goes_back_to_its_place() -> None:
    x, tokens, mid, skip = (random(2, 3, seed=i) for i in range(4))
    residuals = Residuals((skip, mid), mid)
    images = (ImageTokens("one", tokens, 0.5),)
    call = taken_apart(x, None, residuals=residuals, images=images, names={"b", "a"}, some={"k": x})
    assert [id(t) for t in call.tensors] == [id(t) for t in (x, tokens, skip, mid, mid, x)]
    fresh = tuple(t + 1 for t in call.tensors)
    args, told = put_together(call.skeleton, fresh)
    assert args[0] is fresh[0] and args[1] is None
    assert told["images"] == (ImageTokens("one", fresh[1], 0.5),)
    assert isinstance(told["residuals"], Residuals) and told["residuals"].mid is fresh[4]
    assert told["names"] == ("a", "b") and told["some"]["k"] is fresh[5]


def test_what_says_nothing_is_left_out() -> None:
    x = random(2, 3)
    plain = taken_apart(x)
    quiet = taken_apart(
        x, level=None, images=(), identity_attention=frozenset(), checkpointing=False
    )
    assert quiet.key == plain.key and quiet.skeleton == plain.skeleton


def test_calls_differ_by_shape_type_and_setting_but_not_by_values() -> None:
    x = random(2, 3)
    same = taken_apart(x, freeu=(1.0, 2.0)).key
    assert taken_apart(x + 1, freeu=(1.0, 2.0)).key == same
    for other in (
        taken_apart(random(2, 4), freeu=(1.0, 2.0)),
        taken_apart(x.bfloat16(), freeu=(1.0, 2.0)),
        taken_apart(x, freeu=(1.0, 2.0000001)),
        taken_apart(x, x, freeu=(1.0, 2.0)),
        taken_apart(x),
    ):
        assert other.key != same


def test_the_order_of_names_does_not_matter() -> None:
    x, y = random(1), random(2)
    assert taken_apart(a=x, b=y).key == taken_apart(b=y, a=x).key


def test_what_no_compiler_can_know_is_refused() -> None:
    with pytest.raises(TypeError, match="function cannot be compiled"):
        taken_apart(torch.ones(1), observer=lambda look: None)
