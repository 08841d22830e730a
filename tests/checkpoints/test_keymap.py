"""Rows translate names both ways, and every operation has its inverse."""

import pytest
import torch

from safelight.checkpoints.keymap import (
    CONV1X1,
    KEEP,
    SPLIT_QKV,
    TRANSPOSE,
    KeyMap,
    Op,
    Row,
    Shape,
)

CASES: list[tuple[Op, Shape]] = [
    (KEEP, (3, 4)),
    (CONV1X1, (3, 4, 1, 1)),
    (CONV1X1, (3,)),
    (TRANSPOSE, (3, 4)),
    (SPLIT_QKV, (9, 4)),
    (SPLIT_QKV, (9,)),
]


@pytest.mark.parametrize(("op", "shape"), CASES, ids=lambda value: getattr(value, "name", value))
def test_an_operation_and_its_inverse_restore_every_bit(op: Op, shape: Shape) -> None:
    theirs = torch.randn(shape)
    ours = op.to_ours(theirs)
    assert len(ours) == len(op.parts)
    back = op.to_theirs(ours)
    assert torch.equal(back, theirs)
    assert op.shape([tuple(t.shape) for t in ours]) == shape
    assert op.accepts(shape, [tuple(t.shape) for t in ours])


def test_each_operation_refuses_shapes_that_are_not_its_own() -> None:
    assert not KEEP.accepts((3, 4), [(4, 3)])
    assert not CONV1X1.accepts((3, 4, 3, 3), [(3, 4)])
    assert not TRANSPOSE.accepts((3, 4), [(3, 4)])
    assert not SPLIT_QKV.accepts((9, 4), [(3, 5), (3, 5), (3, 5)])


def test_a_linear_weight_will_do_where_a_convolution_is_usual() -> None:
    linear = torch.randn(3, 4)
    assert CONV1X1.accepts((3, 4), [(3, 4)])
    assert torch.equal(CONV1X1.to_ours(linear)[0], linear)


def test_query_key_and_value_are_the_thirds_in_this_order() -> None:
    stacked = torch.arange(6.0)[:, None]
    q, k, v = SPLIT_QKV.to_ours(stacked)
    assert q.flatten().tolist() == [0, 1]
    assert k.flatten().tolist() == [2, 3]
    assert v.flatten().tolist() == [4, 5]


def test_the_longest_prefix_wins() -> None:
    keymap = KeyMap([Row("a", "x"), Row("a.0.special", "x.0.other"), Row("b.1", "x.1")])
    [whole, special, other] = keymap.links(["x.0.conv.weight", "x.0.other.bias", "x.1.weight"])
    assert (whole.theirs, special.theirs, other.theirs) == (
        "a.0.conv.weight",
        "a.0.special.bias",
        "b.1.weight",
    )


def test_a_prefix_ends_at_a_dot() -> None:
    keymap = KeyMap([Row("a.1", "x.1"), Row("a.10", "x.2")])
    assert keymap.to_ours("a.10.weight") == ("x.2.weight",)
    assert keymap.to_ours("a.11.weight") is None


def test_three_names_of_ours_share_one_link() -> None:
    keymap = KeyMap([Row("in_proj_weight", "attn.*_proj.weight", SPLIT_QKV)])
    links = keymap.links([f"attn.{x}_proj.weight" for x in "kqv"])
    assert len(links) == 1
    assert links[0].ours == ("attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight")


def test_a_name_without_a_row_is_an_error_not_a_guess() -> None:
    with pytest.raises(KeyError, match=r"y\.weight"):
        KeyMap([Row("a", "x")]).links(["y.weight"])
