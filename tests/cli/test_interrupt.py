"""Ctrl-C leaves finished pictures whole, and nothing else."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cli_tiny import SMALL, Cli, command, files, pixels
from safelight import writing
from safelight.cli.display import Display
from safelight.tasks.painting import Progress


def interrupt_at(monkeypatch: pytest.MonkeyPatch, first: int, step: int) -> None:
    """Press Ctrl-C when the picture number `first` has taken a step."""
    watch = Display.watch

    def watched(self: Display, drawn: Progress) -> None:
        if (drawn.first, drawn.step) == (first, step):
            raise KeyboardInterrupt
        watch(self, drawn)

    monkeypatch.setattr(Display, "watch", watched)


def test_ctrl_c_during_the_second_picture_leaves_the_first(
    safelight: Cli, model: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, first=1, step=2)
    ran = safelight("generate", "a", "-m", model, *SMALL, "--count", "3", "--save-steps")
    assert (ran.code, ran.err) == (130, "stopped\n")
    assert files(place) == ["out/5-a-steps/001.png", "out/5-a-steps/002.png", "out/5-a.png"]
    monkeypatch.undo()


def test_ctrl_c_during_the_first_picture_leaves_nothing(
    safelight: Cli, model: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, first=0, step=1)
    ran = safelight("generate", "a", "-m", model, *SMALL, "-o", "new/deep")
    assert ran.code == 130
    assert list(place.iterdir()) == []


def test_ctrl_c_while_a_picture_is_written_leaves_no_part_of_it(
    safelight: Cli, model: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    sync = os.fsync

    def interrupted(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 2:  # the first picture syncs its file and its folder
            raise KeyboardInterrupt
        sync(descriptor)

    monkeypatch.setattr(writing.os, "fsync", interrupted)
    ran = safelight("generate", "a", "-m", model, *SMALL, "--count", "3")
    assert ran.code == 130
    assert files(place) == ["out/5-a.png"]


def test_ctrl_c_in_a_grid_keeps_the_pages_and_cells_that_are_done(
    safelight: Cli, model: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Display.watch
    steps = []

    def watched(self: Display, drawn: Progress) -> None:
        steps.append(drawn)
        if len(steps) == 6:  # two pages of two cells of two steps: the third cell
            raise KeyboardInterrupt
        watch(self, drawn)

    monkeypatch.setattr(Display, "watch", watched)
    args = ("grid", "a", "-m", model, *SMALL, "-x", "cfg=1,2", "-z", "seed=1,2")
    assert safelight(*args, "-o", "s.png", "--cells", "cells").code == 130
    assert files(place) == ["cells/1-a-2.png", "cells/1-a.png", "s-1.png"]


def test_a_process_told_to_end_takes_its_empty_folder_with_it(place: Path, model: Path) -> None:
    started = subprocess.Popen(
        command("generate", "a", "-m", model, *SMALL[:2], "--steps", "1000", "-o", "new/deep"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not (place / "new" / "deep").exists():
        assert started.poll() is None, started.communicate()
        time.sleep(0.01)
    started.send_signal(signal.SIGTERM)
    out, _ = started.communicate(timeout=60)
    assert (started.returncode, out) == (143, "")
    assert list(place.iterdir()) == []


def test_a_real_signal_ends_a_real_process_with_130(place: Path, model: Path) -> None:
    started = subprocess.Popen(
        command("generate", "a", "-m", model, *SMALL, "--count", "5000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # a shell's background jobs, such as a whole test run, inherit that it is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert started.stdout is not None
    told = [started.stdout.readline(), started.stdout.readline()]
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert err == "stopped\n"
    names = [line.split()[0] for line in [*told, *out.splitlines()]]
    found = files(place)
    # one may have been saved and not told yet
    assert set(names) <= set(found) and len(found) <= len(names) + 1 < 5000
    assert all(pixels(name).shape == (64, 64, 3) for name in found)
