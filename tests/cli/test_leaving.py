"""The command line ends at once, and yet all that was to be done at the end is done."""

import subprocess
import sys
from pathlib import Path

import pytest

BEGINNING = "import atexit, sys, threading, time\nfrom safelight.cli.main import leave\n"


def ended(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BEGINNING + program], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_what_was_said_and_asked_for_at_the_end_comes_out(code: int) -> None:
    done = ended(
        "atexit.register(print, 'at the end')\n"
        "sys.stdout.write('said'); sys.stderr.write('warned')\n"
        f"leave({code})"
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "saidat the end\n", "warned")


def test_nothing_is_taken_down_piece_by_piece() -> None:
    done = ended("class A:\n  def __del__(self): print('taken down')\nheld = A()\nleave(0)")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_thread_that_writes_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "written"
    done = ended(
        "def write():\n"
        "  time.sleep(0.3)\n"
        f"  open({str(path)!r}, 'w').write('all')\n"
        "threading.Thread(target=write).start()\n"
        "leave(3)"
    )
    assert done.returncode == 3
    assert path.read_text() == "all"


def test_an_output_that_nobody_reads_is_a_failure() -> None:
    done = ended("import os\nos.close(1)\nsys.stdout.write('lost')\nleave(0)")
    assert done.returncode == 1
