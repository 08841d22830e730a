"""Whose turn it is: round after round of owners, first come first served within each."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from safelight.server.fairness import Share, Waiting, order, turn


def waiting(job: str, owner: str, number: int, **changes: object) -> Waiting:
    made = Waiting(job, owner, number, since=0.0, model="m", kind="k", pictures=1)
    return replace(made, **changes)  # type: ignore[arg-type]


def drawn(jobs: list[Waiting], batch: int = 1) -> list[list[Share]]:
    """Every turn until nothing waits."""
    left = {one.job: one for one in jobs}
    served: dict[str, float] = {}
    turns = []
    for now in range(1, 1000):
        shares = turn(list(left.values()), served=served, now=now, batch=batch)
        if not shares:
            return turns
        turns.append(list(shares))
        for share in shares:
            one = left.pop(share.job)
            served[one.owner] = now
            if one.pictures > share.pictures:
                left[one.job] = replace(one, pictures=one.pictures - share.pictures)
    raise AssertionError("it never ends")


def test_one_owner_is_served_in_order_of_submission() -> None:
    jobs = [waiting(str(n), "a", n, kind=None) for n in (3, 1, 2)]
    assert [[s.job for s in shares] for shares in drawn(jobs)] == [["1"], ["2"], ["3"]]


def test_owners_take_turns_whoever_came_first() -> None:
    greedy = [waiting(f"g{n}", "greedy", n, kind=None) for n in range(5)]
    modest = [waiting("m", "modest", 99, kind=None)]
    told = [shares[0].job for shares in drawn(greedy + modest)]
    assert told.index("m") <= 1


def test_a_job_of_a_hundred_pictures_lets_others_in_between() -> None:
    jobs = [waiting("big", "greedy", 1, pictures=100), waiting("small", "modest", 2, kind="other")]
    told = drawn(jobs, batch=4)
    assert [s.job for s in told[0]] == ["big"] and [s.job for s in told[1]] == ["small"]
    assert sum(s.pictures for shares in told for s in shares if s.job == "big") == 100
    assert all(sum(s.pictures for s in shares) <= 4 for shares in told)


def test_jobs_of_the_same_kind_share_a_batch_over_owners() -> None:
    jobs = [waiting("a", "x", 1), waiting("b", "y", 2), waiting("c", "x", 3, kind="other")]
    assert turn(jobs, served={}, now=1, batch=4) == (Share("a", 1), Share("b", 1))


def test_a_job_that_shares_with_nobody_is_alone() -> None:
    jobs = [waiting("a", "x", 1, kind=None, pictures=2), waiting("b", "y", 2, kind=None)]
    assert turn(jobs, served={}, now=1, batch=4) == (Share("a", 2),)


def test_pictures_for_another_model_never_share_a_batch() -> None:
    jobs = [waiting("a", "x", 1), waiting("b", "y", 2, model="other")]
    assert turn(jobs, served={}, now=1, batch=4) == (Share("a", 1),)


def test_a_model_that_is_not_loaded_gives_way_until_patience_is_over() -> None:
    first = waiting("cold", "x", 1, model="cold", kind=None)
    second = waiting("warm", "y", 2, model="warm", kind=None)
    loaded = frozenset({"warm"})

    def next_at(now: float) -> str:
        return turn([first, second], served={}, now=now, batch=1, loaded=loaded, patience=10.0)[
            0
        ].job

    assert next_at(9.0) == "warm"
    assert next_at(10.0) == "cold"


def test_a_model_that_is_not_loaded_is_drawn_with_if_nobody_else_waits() -> None:
    only = waiting("cold", "x", 1, model="cold")
    (share,) = turn([only], served={}, now=0, batch=1, loaded=frozenset({"w"}), patience=99.0)
    assert share.job == "cold"


def test_the_order_told_is_the_order_drawn_when_nothing_is_added() -> None:
    jobs = [
        waiting(f"{owner}{n}", owner, n * 10 + ord(owner), kind=None)
        for owner in "abc"
        for n in range(3)
    ]
    told = order(jobs, served={})
    assert told == [shares[0].job for shares in drawn(jobs)]


OWNERS = st.sampled_from("abc")
JOBS = st.lists(st.tuples(OWNERS, st.integers(1, 6), st.sampled_from(["k", "l", None])), max_size=9)


@given(JOBS, st.integers(1, 5))
def test_everything_is_drawn_once_and_no_turn_is_too_large(
    jobs: list[tuple[str, int, str | None]], batch: int
) -> None:
    all_ = [
        waiting(str(n), owner, n, kind=kind, pictures=count)
        for n, (owner, count, kind) in enumerate(jobs)
    ]
    told = drawn(all_, batch)
    for one in all_:
        assert sum(s.pictures for t in told for s in t if s.job == one.job) == one.pictures
    assert all(1 <= sum(s.pictures for s in t) <= batch for t in told)


@given(JOBS)
def test_nobody_waits_longer_than_a_turn_of_each_other_owner(
    jobs: list[tuple[str, int, str | None]],
) -> None:
    all_ = [
        waiting(str(n), owner, n, kind=None, pictures=count)
        for n, (owner, count, _) in enumerate(jobs)
    ]
    owner_of = {one.job: one.owner for one in all_}
    turns = [owner_of[t[0].job] for t in drawn(all_, 2)]
    for owner in set(turns):
        places = [n for n, who in enumerate(turns) if who == owner]
        assert places[0] < 3 and all(b - a <= 3 for a, b in pairwise(places))
