"""Who draws in eight bits with a preset may be known by a call of the network."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bench_fake import contender, task
from safelight.benchmarks.alike import Array
from safelight.benchmarks.compare import _checked
from safelight.benchmarks.contenders import FULL, Contender
from safelight.benchmarks.players import Hall, Player, Turn, player_of
from safelight.benchmarks.processes import Pool

PICTURE = np.tile(np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3), (1, 4, 4, 1)) * 8
CALL = np.linspace(-1, 1, 64)


def player(how: str, preset: str, picture: Array, call: Array | None) -> Player:
    def turn() -> Turn:
        raise AssertionError("nobody is timed here")

    contender = Contender(how, "bf16", preset=preset)
    return Player(contender, turn, lambda: picture, {}, called=lambda: call)


def checked(*players: Player, work: str = "start") -> tuple[list[str], dict[str, str]]:
    failed: dict[str, str] = {}
    return [p.contender.name for p, _ in _checked(players, work, failed)], failed


def test_another_picture_is_borne_where_the_call_is_near() -> None:
    exact = player("openvino", FULL, PICTURE, CALL)
    eight = player("openvino-int8", "fast", PICTURE[:, ::-1], CALL + 0.05)
    able, failed = checked(exact, eight)
    assert len(able) == 2 and not failed


@pytest.mark.parametrize("call", [CALL + 0.5, -CALL, CALL * np.nan, None])
def test_a_call_that_is_far_is_other_work(call: Array | None) -> None:
    exact = player("openvino", FULL, PICTURE, CALL)
    able, failed = checked(exact, player("openvino-int8", "fast", PICTURE[:, ::-1], call))
    assert len(able) == 1 and "other work" in next(iter(failed.values()))


@pytest.mark.parametrize(("how", "preset"), [("openvino-int8", FULL), ("eager", "fast")])
def test_without_both_the_picture_decides(how: str, preset: str) -> None:
    exact = player("openvino", FULL, PICTURE, CALL)
    able, failed = checked(exact, player(how, preset, PICTURE[:, ::-1], CALL))
    assert len(able) == 1 and failed


def test_a_fresh_process_shows_a_call_of_the_network(tmp_path: Path) -> None:
    with Pool() as pool:
        hall = Hall(sys.executable, tmp_path, pool)
        with player_of(contender(tmp_path, "one"), task("load"), hall) as one:
            found = one.called()
    assert found is not None and found.tolist() == [0, 1, 2, 3]
