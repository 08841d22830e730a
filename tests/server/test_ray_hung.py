"""Replicas that are not dead and give no sign of life are killed, and their jobs drawn again."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from safelight.errors import RequestError
from safelight.server.jobs import LOCAL, Job, State
from safelight.server.ray_replica import Worker
from safelight.server.ray_wire import Alive, Begun, Over, key_text, request_text
from safelight.server.service import Service
from safelight.tasks.request import Request
from server_fake import FakePainter, run, settings
from server_replicas import BEAT, House, housed

pytestmark = pytest.mark.usefixtures("plain_model")
SILENCE = 0.3
Maker = Callable[[], FakePainter]


def asked(seed: int = 3) -> Request:
    return Request(prompt="a cat", steps=2, seed=seed, model="plain", exact=True)


def held() -> FakePainter:
    return FakePainter(0.01, held=True)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


async def draws(house: House, k: int, *, number: int = 1) -> FakePainter:
    """The painter of a replica's place, when the so many-th that was begun there draws."""
    await until(lambda: len(house.lines[k]) == number and house.fake(k).begun.is_set())
    return house.fake(k)


def test_a_replica_that_hangs_is_replaced_and_its_job_drawn_again_once(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(2, held, silence=SILENCE)
        async with housed(tmp_path, house) as service:
            jobs = [await service.submit(asked(seed), LOCAL) for seed in range(2)]
            await draws(house, 0)
            other = await draws(house, 1)
            house.stop(0)
            await until(lambda: len(house.lines[0]) == 2)
            # it was killed by its process, for it may not hear that it shall end
            assert house.lines[0][0].cuts == [os.getpid()]
            assert house.lines[1][0].cuts == [] and len(house.lines[1]) == 1
            (await draws(house, 0, number=2)).go.set()
            other.go.set()
            ends = [await service.finished(job.id, LOCAL) for job in jobs]
            assert [job.state for job in ends] == [State.DONE] * 2
            assert sum(job.restarted for job in ends) == 1
            painters = service.snapshot(LOCAL).painters
            assert [p["deaths"] for p in painters] == [1, 0]

    run(work)


@asynccontextmanager
async def one_job(folder: Path, painter: Maker) -> AsyncIterator[tuple[House, Service, Job]]:
    """A house of one replica with one job."""
    house = House(1, painter, silence=SILENCE)
    async with housed(folder, house) as service:
        yield house, service, await service.submit(asked(), LOCAL)


def test_a_job_that_makes_two_replicas_hang_fails_and_says_so(tmp_path: Path) -> None:
    async def work() -> None:
        async with one_job(tmp_path, held) as (house, service, job):
            for number in (1, 2):
                await draws(house, 0, number=number)
                house.stop(0)
            end = await service.finished(job.id, LOCAL)
            assert end.state is State.FAILED and end.failure is not None
            assert end.failure.kind == "died"

    run(work)


def test_a_replica_that_takes_long_over_a_step_and_is_there_is_left_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with one_job(tmp_path, lambda: FakePainter(3 * SILENCE)) as (house, service, job):
            end = await service.finished(job.id, LOCAL)
            assert end.state is State.DONE and not end.restarted
            assert len(house.lines[0]) == 1

    run(work)


def test_one_that_goes_on_with_what_nobody_wants_is_replaced(tmp_path: Path) -> None:
    """Its process says that it is there, and its drawing never comes to an end."""

    async def work() -> None:
        async with one_job(tmp_path, held) as (house, service, job):
            await draws(house, 0)
            await service.cancel(job.id, LOCAL)
            began = time.monotonic()
            await until(lambda: len(house.lines[0]) == 2)
            assert time.monotonic() - began >= SILENCE
            house.fake(0).go.set()
            other = await service.submit(asked(4), LOCAL)
            assert (await service.finished(other.id, LOCAL)).state is State.DONE
            assert service.job(job.id, LOCAL).state is State.CANCELLED

    run(work)


def test_a_replica_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    """It may wait for its place on a cluster; if it dies there Ray says so."""

    async def work() -> None:
        house = House(1, FakePainter, silence=SILENCE)
        async with housed(tmp_path, house) as service:
            begin = house.painters[0]._begin

            def late() -> object:
                line = begin()
                line.worker.stopped.set()  # type: ignore[attr-defined]
                return line

            house.painters[0]._begin = late  # type: ignore[assignment]
            job = await service.submit(asked(), LOCAL)
            await asyncio.sleep(3 * SILENCE)
            assert service.job(job.id, LOCAL).state is State.RUNNING
            assert len(house.lines[0]) == 1
            house.kill(0)
            house.painters[0]._begin = begin
            assert (await service.finished(job.id, LOCAL)).state is State.DONE

    run(work)


def test_while_it_loads_a_model_a_replica_says_that_it_is_there() -> None:
    class Slow(FakePainter):
        def prepare(self, model: object, request: Request) -> None:
            time.sleep(8 * BEAT)

    worker = Worker(Slow(), None, threads=None, beat=BEAT)
    messages = list(worker.prepare(key_text(("plain",)), request_text(asked())))
    assert isinstance(messages[0], Begun) and isinstance(messages[-1], Over)
    assert sum(isinstance(message, Alive) for message in messages[1:-1]) >= 3


def test_how_long_a_replica_may_be_silent_has_bounds(tmp_path: Path) -> None:
    assert settings(tmp_path).silence == 60
    assert settings(tmp_path, ray=True, silence=10).silence == 10
    with pytest.raises(RequestError, match="--silence are for Ray; add --ray"):
        settings(tmp_path, silence=10)
    for seconds in (0, 9, float("nan"), float("inf")):
        with pytest.raises(RequestError, match="silence must be from 10 to 86400 seconds"):
            settings(tmp_path, silence=seconds)
