"""Contenders take turns: a turn of each, then the next round, so all see the same machine."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_turns(
    players: Sequence[Callable[[], T]],
    rounds: int,
    *,
    over: Callable[[int], bool] = lambda rounds_done: False,
) -> list[list[T]]:
    """What each player's turns gave: one result a round. A round is begun only to be finished.

    over: asked before each round, with the number of those that are done, whether to stop.
    """
    results: list[list[T]] = [[] for _ in players]
    for number in range(rounds):
        if over(number):
            break
        taken = [player() for player in players]
        for mine, result in zip(results, taken, strict=True):
            mine.append(result)
    return results


def calls_of(seconds: float, wanted: float) -> int:
    """How many calls of so many seconds make a turn of about `wanted` seconds; at least one."""
    return max(1, round(wanted / seconds)) if seconds > 0 else 1


def block(call: Callable[[], object], count: int, wait: Callable[[], object]) -> float:
    """Seconds a call, of so many one after another; `wait` returns when the device is idle."""
    wait()
    began = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - began) / count
