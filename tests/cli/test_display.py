"""The progress bar: step time and time left on a terminal, and nothing anywhere else."""

import os
import pty
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from cli_tiny import SMALL, command
from safelight.cli import display as module
from safelight.cli.display import Display, Pace, clock, duration
from safelight.tasks.painting import Progress
from safelight.tasks.request import Request


def step(first: int, number: int, steps: int = 4, pictures: int = 1) -> Progress:
    return Progress(first, pictures, number, steps, torch.zeros(pictures, 4, 1, 1))


def test_what_is_left_is_the_time_so_far_times_the_work_to_do() -> None:
    pace = Pace(total=20)
    assert pace.left == 0
    for number in range(1, 6):
        pace.took(2.0, 1, first=number == 1)
    assert pace.left == 30 and pace.step == 2


def test_the_time_of_a_step_does_not_count_what_comes_before_a_picture() -> None:
    pace = Pace(total=20)
    pace.took(5.0, 1, first=True)
    assert pace.step == 5  # there is no other yet
    pace.took(1.0, 1, first=False)
    pace.took(9.0, 1, first=True)  # the last picture was decoded and saved in this time
    assert pace.step == 1
    assert pace.left == 15 / 3 * 17


@pytest.mark.parametrize(
    ("seconds", "short", "long"),
    [(0.0832, "83 ms", "0:00"), (1.254, "1.25 s", "0:01"), (750, "750 s", "12:30")],
)
def test_times_are_short(seconds: float, short: str, long: str) -> None:
    assert (duration(seconds), clock(seconds)) == (short, long)
    assert clock(3723) == "1:02:03"


class Terminal:
    """Stands in for stderr, and keeps what is drawn on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.console = Console(force_terminal=True, width=100, record=True, file=StringIO())
        self.now = 0.0
        monkeypatch.setattr(module, "err", self.console)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

    def shown(self, display: Display) -> str:
        """What stands on the terminal now."""
        self.console.export_text()
        display._bar.refresh()
        text = self.console.export_text()
        return re.sub(r"\s+", " ", re.sub(r"[━╸╺]+", "|", text)).strip()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(monkeypatch)


def test_all_pictures_of_a_command_line_are_counted_and_estimated(terminal: Terminal) -> None:
    requests = [
        Request(prompt="", steps=4, count=2, model="folder/apple.safetensors"),
        Request(prompt="", steps=4, count=1),
    ]
    with Display(requests) as display:
        display.reading(requests[0])
        assert "reading apple.safetensors" in terminal.shown(display)
        display.drawing(requests[0])
        for number in (1, 2, 3):
            terminal.now += 0.5
            display.watch(step(0, number))
        assert terminal.shown(display) == "picture 1 of 3 | 3/4 0.50 s a step, 0:04 left"
        terminal.now += 0.5
        display.watch(step(0, 4))
        assert terminal.shown(display).startswith("decoding picture 1 of 3 |")
        terminal.now += 0.5
        display.watch(step(1, 1))
        assert "picture 2 of 3 " in terminal.shown(display)
        display.drawing(requests[1])
        display.watch(step(0, 1))
        assert "picture 3 of 3 " in terminal.shown(display)


def test_a_batch_is_counted_as_what_it_is(terminal: Terminal) -> None:
    request = Request(prompt="", steps=4, count=4, batch=2)
    with Display([request]) as display:
        display.drawing(request)
        terminal.now += 1
        display.watch(step(2, 1, pictures=2))
        assert terminal.shown(display) == "picture 3 to 4 of 4 | 1/4 1.00 s a step, 0:07 left"


def test_without_a_terminal_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    request = Request(prompt="", steps=4)
    with Display([request]) as display:
        display.reading(request)
        display.drawing(request)
        display.watch(step(0, 1))
        with display.paused():
            print("a result")
    assert capsys.readouterr() == ("a result\n", "")


def on_terminal(*args: object) -> tuple[str, str, int]:
    """stdout of a real process, and what it shows on the terminal that is its stderr."""
    master, slave = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        command(*args), stdout=subprocess.PIPE, stderr=slave, text=True, env=environment
    ) as started:
        os.close(slave)
        screen = _until_closed(master)
        assert started.stdout is not None
        out = started.stdout.read()
    return out, screen, started.returncode


def _until_closed(master: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(master)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(parts).decode())


def test_a_real_terminal_shows_the_bar_and_stdout_keeps_the_results(
    place: Path, model: Path
) -> None:
    out, screen, code = on_terminal(
        *("generate", "a <lora:x:1>", "-m", model, *SMALL, "--count", "2", "--steps", "4"),
        "--no-look-up",
    )
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "out/5-a-lora-x-1.png",
        "out/6-a-lora-x-1.png",
    ]
    assert "\x1b" not in out
    assert "picture 1 of 2" in screen and "picture 2 of 2" in screen
    assert re.search(r"4/4 .*(ms|s) a step, 0:0\d left", screen)
    assert screen.count("was not applied") == 1
    assert "reading sd15.safetensors" in screen
