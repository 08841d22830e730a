"""On Ray a run is that of one machine, an actor's death loses nothing, ports are loopback's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli_tiny import SMALL, tiny_model
from process_facts import family, listening, title
from safelight.bulk.manifest import Line, read_lines
from safelight.checkpoints.save import save

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

COUNT = 24


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save(tiny_model(), tmp_path / "m.safetensors", "ldm")
    (tmp_path / "list.txt").write_text("".join(f"picture {k}\n" for k in range(COUNT)))
    return tmp_path


def batch(place: Path, out: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "safelight", "batch", "list.txt", "-m", "m.safetensors"]
    command += [*SMALL, "--shard", "2", "--threads", "1", "--out", out, *more]
    surroundings = os.environ | {"SAFELIGHT_HOME": str(place), "SAFELIGHT_CACHE": str(place)}
    surroundings |= {"HOME": str(place), "RAY_TMPDIR": "/tmp"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=place, env=surroundings, text=True, **pipes)


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def pictures(place: Path, out: str) -> list[tuple[int, str | None, str | None]]:
    lines: list[Line] = list(read_lines(place / out / "manifest.jsonl"))
    return [(line.index, line.pixels_sha256, line.error) for line in lines]


def test_two_replicas_draw_what_one_machine_draws_and_listen_on_loopback(place: Path) -> None:
    ended(batch(place, "here"))
    process = batch(place, "there", "--ray", "--replicas", "2")
    heard: set[str] = set()
    while process.poll() is None:
        heard |= set(listening(process.pid))
        time.sleep(0.5)
    ended(process)
    assert pictures(place, "there") == pictures(place, "here")
    assert len(pictures(place, "here")) == COUNT
    assert heard and heard <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_a_replica_that_is_killed_loses_no_row(place: Path) -> None:
    ended(batch(place, "here"))
    process = batch(place, "there", "--ray", "--replicas", "2")
    done = place / "there" / ".work"
    while process.poll() is None and len(list(done.glob("*.lines"))) < 2:
        time.sleep(0.1)
    workers = [pid for pid in family(process.pid) if "MapWorker" in title(pid)]
    assert workers, "the actors live while there is work"
    os.kill(workers[0], signal.SIGKILL)
    ended(process)
    assert pictures(place, "there") == pictures(place, "here")
