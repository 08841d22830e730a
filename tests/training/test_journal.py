"""The log of a run and the boards that draw it."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from safelight.errors import RequestError
from safelight.training.journal import Journal, journal, read_log
from safelight.training.loop import train
from training_tiny import Denoising, Pictures, settings


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    log = Journal(tmp_path, 0)
    log.write({"step": 1, "a": 0.1, "b": "ü"})
    log.write({"step": 2, "a": float("nan"), "b": float("inf")})
    assert read_log(log.path) == [
        {"step": 1, "a": 0.1, "b": "ü"},
        {"step": 2, "a": None, "b": None},
    ]


def test_opening_removes_what_is_past_the_step_and_half_lines(tmp_path: Path) -> None:
    log = Journal(tmp_path, 0)
    for step in range(1, 6):
        log.write({"step": step, "a": step / 7})
    with log.path.open("a") as file:
        file.write('{"step": 3, "a"')
    assert read_log(Journal(tmp_path, 3).path) == [{"step": s, "a": s / 7} for s in (1, 2, 3)]


@pytest.mark.parametrize(
    ("changes", "package"),
    [({"tensorboard": True}, "torch.utils.tensorboard"), ({"wandb": "trials"}, "wandb")],
)
def test_a_missing_board_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with (
        pytest.raises(RequestError, match=r"pip install 'safelight\["),
        journal(tmp_path, settings(**changes), 0),
    ):
        raise AssertionError("the journal opened")


class Board(ModuleType):
    """Stands for both libraries."""

    def __init__(self) -> None:
        super().__init__("board")
        self.drawn: list[tuple[int, str, float]] = []
        self.opened: list[dict[str, Any]] = []
        self.closed = 0
        self.SummaryWriter = self.init

    def init(self, *given: Any, **options: Any) -> "Board":
        self.opened.append(options)
        return self

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.drawn.append((step, name, value))

    def log(self, figures: dict[str, float], step: int) -> None:
        self.drawn += [(step, name, value) for name, value in figures.items()]

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1

    finish = close


@pytest.mark.parametrize(
    ("changes", "package"),
    [({"tensorboard": True}, "torch.utils.tensorboard"), ({"wandb": "trials"}, "wandb")],
)
def test_boards_get_every_figure_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], package: str
) -> None:
    board = Board()
    monkeypatch.setitem(sys.modules, package, board)
    train(Denoising(), Pictures(), settings(**changes), tmp_path)
    lines = read_log(tmp_path / "log.jsonl")
    assert board.closed == 1
    assert [(s, v) for s, n, v in board.drawn if n == "net/loss"] == [
        (line["step"], line["net/loss"]) for line in lines
    ]
    opened = board.opened[0]
    assert opened.get("purge_step") == 1 or opened.get("resume") == "allow"


def test_tensorboard_draws_for_real(tmp_path: Path) -> None:
    train(Denoising(), Pictures(), settings(tensorboard=True), tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    drawn = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("net/loss")
    lines = read_log(tmp_path / "log.jsonl")
    assert [event.step for event in drawn] == [line["step"] for line in lines]
    assert [event.value for event in drawn] == pytest.approx([line["net/loss"] for line in lines])
