"""Disks that are full, folders that go, processes that die while they write (X1, X4, X5)."""

import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from safelight.errors import OutputError, SafelightError
from safelight.server.jobs import LOCAL, Job, State
from safelight.server.painter import Listener, Turn, failure_of
from safelight.server.refusals import NoSpace
from safelight.server.store import Store
from safelight.tasks.picture import Picture
from safelight.tasks.recipe import pixels_sha256
from safelight.tasks.request import Request
from server_fake import FakePainter, picture_of, run, serving
from server_http import http

pytestmark = pytest.mark.usefixtures("plain_model")

SIDE = 256  # of a picture of noise: 192 KiB that nothing compresses


def noisy(request: Request, index: int = 0) -> Picture:
    flat = picture_of(request.replace(width=SIDE, height=SIDE), index)
    seed = flat.recipe.request.seed
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    result = flat.recipe.result.replace(pixels_sha256=pixels_sha256(pixels))
    return Picture(pixels, flat.recipe.replace(result=result))


class NoisyPainter(FakePainter):
    """Draws pictures that take room."""

    def draw(self, turn: Turn, listener: Listener) -> None:
        for portion in turn.portions:
            for index in portion.indices:
                try:
                    listener.drawn(portion.job.id, index, noisy(portion.request, index))
                except SafelightError as error:
                    listener.failed(portion.job.id, failure_of(error))


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """As if the disk were full: no file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with one MiB; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def pictures(out: Path) -> list[Path]:
    return sorted(out.glob("20*/*"))


# -- X4: the disk is full --------------------------------------------------------------------------


def test_a_picture_that_does_not_fit_is_507_and_leaves_nothing_and_the_next_one_is_kept(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        async with http(tmp_path, NoisyPainter()) as (client, service):
            body = {"prompt": "x", "seed": 1, "steps": 1}
            with no_file_above(100_000):
                answer = await client.post("/sdapi/v1/txt2img", json=body)
                assert answer.status_code == 507
                assert "disk" in answer.json()["detail"]
                assert str(tmp_path) not in answer.text
                assert pictures(tmp_path) == []
            assert (await client.post("/sdapi/v1/txt2img", json=body)).status_code == 200
            assert len(pictures(tmp_path)) == 1
            failed, done = (job.state for job in service.jobs(LOCAL)[::-1])
            assert (failed, done) == (State.FAILED, State.DONE)

    run(work)


def test_a_job_that_cannot_be_kept_is_not_accepted(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, service):
            body = {"prompt": "x", "seed": 1, "steps": 1}
            with no_file_above(0):
                answer = await client.post("/api/jobs", json=body)
                assert answer.status_code == 507, answer.text
                assert answer.json()["error"]["kind"] in ("disk", "no_space")
                upload = await client.post(
                    "/api/pictures",
                    content=noisy(Request(prompt="", seed=1)).encoded(".png"),
                    headers={"Content-Type": "image/png"},
                )
                assert upload.status_code == 507, upload.text
            assert service.jobs(LOCAL) == []
            assert (await client.post("/api/jobs", json=body)).status_code == 202

    run(work)


def test_a_job_that_could_not_be_kept_is_never_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = threading.Event()
    real = Store.write

    def write(store: Store, job: Job | None = None, **more: Any) -> None:
        if job is not None and job.request.seed == 2:
            fails.wait(10)
            raise NoSpace("the disk of the server is full; nothing was accepted.")
        real(store, job, **more)

    monkeypatch.setattr(Store, "write", write)

    async def work() -> None:
        painter = FakePainter(held=True)
        async with serving(tmp_path, painter) as service:
            first = await service.submit(Request(prompt="x", seed=1, steps=1, exact=True), LOCAL)
            second = asyncio.create_task(service.submit(Request(prompt="x", seed=2), LOCAL))
            await asyncio.sleep(0.05)
            painter.go.set()  # now the worker looks for the next job, while that is being kept
            await asyncio.sleep(0.1)
            fails.set()
            with pytest.raises(NoSpace):
                await second
            assert (await service.finished(first.id, LOCAL)).state is State.DONE
            await asyncio.sleep(0.05)
            assert painter.turns == [{first.id: 1}]
            assert len(service.jobs(LOCAL)) == 1

    run(work)


def test_on_a_disk_that_is_really_full_what_was_kept_stays_and_room_makes_it_go_on(
    small_disk: Path,
) -> None:
    async def work() -> None:
        async with serving(small_disk, NoisyPainter()) as service:
            states: list[State | None] = []
            for seed in range(8):
                try:
                    job = await service.submit(Request(prompt="x", seed=seed, steps=1), LOCAL)
                except (NoSpace, OutputError):  # there is not even room for the job
                    states.append(None)
                    continue
                ended = await service.finished(job.id, LOCAL)
                states.append(ended.state)
                if ended.failure is not None:
                    assert ended.failure.kind in ("disk", "no_space")
                    assert ended.failure.status == 507
            assert State.DONE in states and states[-1] is not State.DONE
            kept = pictures(small_disk)
            assert len(kept) == states.count(State.DONE)
            for path in kept:
                with Image.open(path) as image:
                    image.load()
            for path in kept:
                path.unlink()
            job = await service.submit(Request(prompt="x", seed=9, steps=1), LOCAL)
            assert (await service.finished(job.id, LOCAL)).state is State.DONE

    run(work)


# -- X5: folders and files that go -----------------------------------------------------------------


def test_a_folder_that_turned_into_a_file_is_507_until_it_is_gone(tmp_path: Path) -> None:
    day = tmp_path / time.strftime("%Y-%m-%d", time.gmtime())

    async def work() -> None:
        async with serving(tmp_path, FakePainter()) as service:
            day.write_text("not a folder")
            job = await service.submit(Request(prompt="x", seed=1, steps=1), LOCAL)
            failure = (await service.finished(job.id, LOCAL)).failure
            assert failure is not None and failure.status == 507
            day.unlink()
            job = await service.submit(Request(prompt="x", seed=1, steps=1), LOCAL)
            assert (await service.finished(job.id, LOCAL)).state is State.DONE

    run(work)


def test_a_picture_whose_file_is_gone_is_404_everywhere(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, service):
            job = await service.submit(Request(prompt="x", seed=1, steps=1), LOCAL)
            ((_, id),) = (await service.finished(job.id, LOCAL)).pictures
            for path in pictures(tmp_path):
                path.unlink()
            for way in ("", "?format=jpg", "/recipe", "/thumbnail"):
                answer = await client.get(f"/api/pictures/{id}{way}")
                assert answer.status_code == 404 and "gone" in answer.json()["detail"]
            assert (await client.delete(f"/api/pictures/{id}")).status_code == 200

    run(work)


# -- X1: kill -9 while a picture is saved ----------------------------------------------------------

SAVES = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[2].split(os.pathsep)
from safelight.server.gallery import Gallery
from safelight.server.jobs import Job
from safelight.server.store import Store
from safelight.tasks.request import Request
from test_disk_faults import noisy
out = Path(sys.argv[1])
request = Request(prompt="x", seed=1, count=64)
picture = noisy(request)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        store = Store(out / ".safelight")
        gallery = Gallery(out, out / ".safelight" / "thumbnails")
        job = Job(f"{int(line):016x}", "ann", request, int(line), created=1e9)
        store.write(job)
        for number, index in enumerate([*range(64)] * 1000):
            store.write(picture=gallery.save(job, index, picture))
            if number == 0:
                print(os.getpid(), flush=True)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_kill_9_at_twenty_moments_of_saving_leaves_only_whole_files(tmp_path: Path) -> None:
    (tmp_path / ".safelight").mkdir()
    here = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    dice = random.Random(5)
    with subprocess.Popen(
        [sys.executable, "-c", SAVES, str(tmp_path), here],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for number in range(1, 21):
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            time.sleep(dice.uniform(0.0, 0.08))
            os.kill(child, signal.SIGKILL)
        process.stdin.close()
        process.wait(20)
    found = pictures(tmp_path)
    whole = [path for path in found if path.suffix == ".png"]
    assert len(whole) >= 20, "the children wrote pictures before they died"
    assert all(path.suffix in (".png", ".part") for path in found)
    for path in whole:
        with Image.open(path) as image:
            image.load()

    async def again() -> None:  # no crash leaves what the next start cannot use, or litter
        async with serving(tmp_path, FakePainter(held=True)) as service:
            for job in service.jobs(LOCAL):
                await service.cancel(job.id, LOCAL)
            names = {kept.file for kept in await service.gallery(LOCAL, limit=5000)}
            assert names == {path.relative_to(tmp_path).as_posix() for path in whole}
            assert not list(tmp_path.rglob(".*.part"))

    run(again)
