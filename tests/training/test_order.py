"""Which examples make up each step."""

from itertools import chain

import pytest

from safelight.errors import RequestError
from safelight.training.order import Flat, Order


def test_every_pass_sees_every_example_once_and_batches_are_full() -> None:
    order: Order = Flat(10, 4, seed=1)
    steps = [list(order.indices(step)) for step in range(5)]
    assert all(len(batch) == 4 for batch in steps)
    drawn = list(chain(*steps))
    assert sorted(drawn[:10]) == list(range(10)) and sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:] != sorted(drawn[10:])


def test_a_batch_larger_than_the_data_holds_several_passes() -> None:
    order = Flat(3, 8, seed=1)
    drawn = [*order.indices(0), *order.indices(1), *order.indices(2)]
    assert [sorted(drawn[at : at + 3]) for at in range(0, 24, 3)] == [[0, 1, 2]] * 8


def test_the_order_depends_on_seed_and_step_alone() -> None:
    asked, fresh = Flat(50, 7, seed=2), Flat(50, 7, seed=2)
    forward = [asked.indices(step) for step in range(40)]
    assert [fresh.indices(step) for step in reversed(range(40))] == forward[::-1]
    assert Flat(50, 7, seed=3).indices(0) != forward[0]


def test_epoch_counts_the_passes_that_were_complete() -> None:
    order = Flat(10, 4, seed=0)
    assert [order.epoch(step) for step in range(6)] == [0, 0, 0, 1, 1, 2]


def test_no_data_and_no_batch_are_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        Flat(0, 4, seed=0)
    with pytest.raises(RequestError, match="batch_size"):
        Flat(4, 0, seed=0)
