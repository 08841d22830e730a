"""On Ray a run is that of one machine, no death loses a row, ports are loopback's."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tiny import SMALL, tiny_model
from process_facts import family, listening, title
from safelight.bulk.manifest import Line, read_lines
from safelight.checkpoints.save import save

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

COUNT, MANY = 24, 200


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save(tiny_model(), tmp_path / "m.safetensors", "ldm")
    write_list(tmp_path, COUNT)
    return tmp_path


def write_list(place: Path, count: int) -> None:
    (place / "list.txt").write_text("".join(f"picture {k}\n" for k in range(count)))


def batch(place: Path, out: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "safelight", "batch", "list.txt", "-m", "m.safetensors"]
    command += [*SMALL, "--shard", "2", "--threads", "1", "--out", out, *more]
    surroundings = os.environ | {"SAFELIGHT_HOME": str(place), "SAFELIGHT_CACHE": str(place)}
    surroundings |= {"HOME": str(place), "RAY_TMPDIR": "/tmp"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=place, env=surroundings, text=True, **pipes)


def rays_own(pid: int) -> set[Path]:
    """The folders that were made for Ray, as the command lines of its processes name them."""
    named = [re.search(r"/tmp/safelight-ray-\w+", title(member)) for member in family(pid)]
    return {path for found in named if found and (path := Path(found[0])).exists()}


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def pictures(place: Path, out: str) -> list[tuple[int, str | None, str | None]]:
    return [(line.index, line.pixels_sha256, line.error) for line in manifest(place, out)]


def manifest(place: Path, out: str) -> list[Line]:
    return list(read_lines(place / out / "manifest.jsonl"))


def pixels(place: Path, out: str, line: Line) -> bytes:
    assert line.file is not None
    with Image.open(place / out / line.file) as image:
        return np.asarray(image).tobytes()


def test_two_replicas_draw_what_one_machine_draws_and_listen_on_loopback(place: Path) -> None:
    ended(batch(place, "here"))
    process = batch(place, "there", "--ray", "--replicas", "2")
    heard: set[str] = set()
    open_to: set[int] = set()
    while process.poll() is None:
        heard |= set(listening(process.pid))
        open_to |= {folder.stat().st_mode & 0o777 for folder in rays_own(process.pid)}
        time.sleep(0.5)
    ended(process)
    assert pictures(place, "there") == pictures(place, "here")
    assert len(pictures(place, "here")) == COUNT
    assert heard and heard <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert open_to == {0o700}, "nobody else reaches Ray's sockets and logs"


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


def test_200_prompts_are_complete_after_a_kill_and_equal_to_one_machines(place: Path) -> None:
    write_list(place, MANY)
    few = ("--steps", "1", "--shard", "10")
    process = batch(place, "there", "--ray", "--replicas", "2", *few)
    done = place / "there" / ".work"
    while process.poll() is None and len(list(done.glob("*.lines"))) < 5:
        time.sleep(0.02)
    left = rays_own(process.pid)
    process.kill()
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in done.glob("*.lines")}
    assert 5 <= len(before) < MANY // 10 and not (place / "there" / "manifest.jsonl").exists()
    again = ended(batch(place, "there", "--ray", "--replicas", "2", *few))
    assert f"{MANY} of {MANY} rows drawn" in again
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    ended(batch(place, "here", *few))
    here, there = manifest(place, "here"), manifest(place, "there")
    assert [line.index for line in there] == list(range(MANY))
    assert [replace(line, seconds=None) for line in there] == [
        replace(line, seconds=None) for line in here
    ]
    assert all(line.error is None for line in there)
    assert len({line.pixels_sha256 for line in there}) == MANY
    assert all(
        pixels(place, "there", mine) == pixels(place, "here", other)
        for mine, other in zip(there, here, strict=True)
    )
    for folder in left:  # nobody was there to take it away
        shutil.rmtree(folder, ignore_errors=True)
    files = {str(path.relative_to(place / "there")) for path in (place / "there").rglob("*.png")}
    assert files == {line.file for line in there}
