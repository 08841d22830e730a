"""Rounds, turns, outputs that agree: the arithmetic of a benchmark."""

import numpy as np
import pytest

from safelight.benchmarks.alike import NEAR, apart, pictures_apart
from safelight.benchmarks.spread import Spread, ratios, spread
from safelight.benchmarks.turns import block, calls_of, in_turns


def test_quartiles_lie_between_the_measurements() -> None:
    assert spread([5, 1, 4, 2, 3]) == Spread(3, 2, 4, 1, 5, 5)
    assert spread([1, 2]) == Spread(1.5, 1.25, 1.75, 1, 2, 2)
    assert spread([7.0]) == Spread(7, 7, 7, 7, 7, 1)
    assert spread([4, 1, 2, 3, 5]).width == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])


def test_a_spread_for_json_is_short_and_counts_in_whole_numbers() -> None:
    line = spread([1 / 3, 1 / 3]).line()
    assert line["median"] == 0.333333 and line["count"] == 2 and isinstance(line["count"], int)


def test_ratios_are_of_the_same_round_and_not_of_medians() -> None:
    """A machine that grows ten times slower changes neither ratio."""
    ours, theirs = [1.0, 2.0, 30.0], [2.0, 4.0, 60.0]
    found = ratios(ours, theirs)
    assert (found.median, found.least, found.most) == (0.5, 0.5, 0.5)
    assert ratios([1, 9, 1], [1, 1, 1]).median == 1
    with pytest.raises(ValueError, match="2 and 3 rounds"):
        ratios([1, 1], [1, 1, 1])


def test_contenders_take_turns() -> None:
    seen: list[str] = []

    def player(name: str) -> object:
        def play() -> int:
            seen.append(name)
            return len(seen)

        return play

    found = in_turns([player("a"), player("b")], 3)  # type: ignore[list-item]
    assert seen == list("ababab") and found == [[1, 3, 5], [2, 4, 6]]


def test_a_round_is_begun_only_to_be_finished() -> None:
    asked: list[int] = []

    def over(done: int) -> bool:
        asked.append(done)
        return done == 2

    found = in_turns([lambda: 0, lambda: 1], 9, over=over)
    assert found == [[0, 0], [1, 1]] and asked == [0, 1, 2]


def test_short_calls_are_repeated_until_a_turn_is_long_enough() -> None:
    assert [calls_of(s, 1.0) for s in (0.1, 0.4, 1, 50, 0)] == [10, 2, 1, 1, 1]
    calls: list[int] = []
    waits: list[int] = []
    assert block(lambda: calls.append(1), 3, lambda: waits.append(1)) >= 0
    assert len(calls) == 3 and len(waits) == 2


def test_distance_is_measured_in_deviations_of_the_reference() -> None:
    wanted = np.random.default_rng(0).normal(5, 2, (4, 100))
    away = apart(wanted + 0.02, wanted, 0.02)
    assert away.typical == pytest.approx(0.01, rel=0.1) and away.same
    assert apart(wanted + 0.2, wanted, 0.02).typical == pytest.approx(0.1, rel=0.1)
    assert not apart(wanted + 0.2, wanted, 0.02).same
    assert apart(wanted, wanted, 0.0).same


@pytest.mark.parametrize("broken", ["nan", "shape", "flat"])
def test_what_cannot_be_compared_is_not_the_same_work(broken: str) -> None:
    wanted = np.arange(6.0).reshape(2, 3)
    output = wanted.copy()
    if broken == "nan":
        output[0, 0] = np.nan
    if broken == "shape":
        output = output.T
    if broken == "flat":
        wanted = np.zeros_like(wanted)
    assert not apart(output, wanted, 0.5).same
    assert not pictures_apart(output, wanted).same


def test_rounding_of_pictures_passes_and_another_picture_does_not() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 255, (1, 16, 16, 3)).astype(np.uint8)
    noisy = (wanted.astype(int) + rng.integers(-3, 4, wanted.shape)).clip(0, 255).astype(np.uint8)
    other = rng.integers(0, 255, wanted.shape).astype(np.uint8)
    assert pictures_apart(noisy, wanted).same and not pictures_apart(other, wanted).same
    assert pictures_apart(noisy, wanted).allowed == NEAR
    # bytes must not wrap around when they are subtracted
    assert pictures_apart(wanted, noisy).typical == pytest.approx(
        pictures_apart(noisy, wanted).typical, rel=0.05
    )
