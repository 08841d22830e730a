"""Models that were cut anywhere, and clocks that jump (X6, X14)."""

import random
import time
from pathlib import Path

import pytest

from safelight.errors import CheckpointError, FileError
from safelight.server.jobs import LOCAL, Done, State
from safelight.server.service import Service
from safelight.tasks.request import Request
from server_fake import FakePainter, run, serving, settings


@pytest.mark.parametrize("number", range(16))
def test_a_model_cut_at_a_random_place_is_refused_by_name_before_anything_is_drawn(
    tmp_path: Path, models: Path, number: int
) -> None:
    whole = (models / "one.safetensors").read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(whole[: random.Random(number).randrange(len(whole))])

    async def work() -> None:
        service = Service(settings(tmp_path / "out", model=str(path)))
        with pytest.raises((FileError, CheckpointError), match=r"short\.safetensors"):
            await service.start()

    run(work)


@pytest.mark.usefixtures("plain_model")
@pytest.mark.parametrize("hours", [-48, -1, 2])
def test_a_clock_that_is_set_while_a_job_runs_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    real, shift = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])

    async def work() -> None:
        painter = FakePainter(held=True)
        async with serving(tmp_path, painter) as service:
            first = await service.submit(Request(prompt="x", seed=1, steps=2), LOCAL)
            second = await service.submit(Request(prompt="x", seed=2, steps=2), LOCAL)
            shift[0] = hours * 3600.0
            painter.go.set()
            for job in (first, second):
                ended = await service.finished(job.id, LOCAL)
                assert ended.state is State.DONE and ended.finished is not None
                events = [event async for event in service.events(job.id, LOCAL)]
                assert isinstance(events[-1].body, Done) and events[-1].body.seconds >= 0
            numbers = [job.id for job in service.jobs(LOCAL)]
            assert numbers == [second.id, first.id]
            gallery = await service.gallery(LOCAL)
            assert [kept.job for kept in gallery] == [second.id, first.id]

    run(work)
