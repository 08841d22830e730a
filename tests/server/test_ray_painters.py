"""Replicas behind one queue: who draws what, what is heard of it, and what a death costs."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from safelight.cli.main import run as command
from safelight.errors import FileError, RequestError
from safelight.server.jobs import LESSON, LOCAL, Event, Failure, Job, Owner, State, Stepped
from safelight.server.lesson_frames import Lesson
from safelight.server.painter import At, Listener, Portion, Turn
from safelight.server.ray_painters import RemotePainter, ray_painters
from safelight.server.ray_wire import (
    SentTurn,
    key_of,
    key_text,
    picture_from,
    received,
    sent_picture,
    sent_portion,
)
from safelight.server.service import Service
from safelight.server.settings import ServerSettings
from safelight.tasks.picture import Picture
from safelight.tasks.request import Request
from server_fake import FakePainter, picture_of, run, settings
from server_http import client_of
from server_replicas import House, ThreadLine, housed

pytestmark = [pytest.mark.usefixtures("plain_model"), pytest.mark.slow]

ANN, BOB = Owner("ann"), Owner("bob")


def asked(**changes: object) -> Request:
    """A request that shares its batch with nobody, so that it is seen who draws it."""
    given = {"prompt": "a cat", "steps": 2, "seed": 3, "model": "plain", "exact": True}
    return Request(**(given | changes))  # type: ignore[arg-type]


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


async def over(service: Service, jobs: list[Job]) -> list[Job]:
    return [await service.finished(job.id, LOCAL) for job in jobs]


async def told(service: Service, id: str) -> list[Event]:
    return [event async for event in service.events(id, LOCAL)]


def held() -> FakePainter:
    return FakePainter(0.01, held=True)


def drawn(house: House) -> list[list[str]]:
    """The jobs that each replica was given, in order, by all that it ever was."""
    return [
        [portion.job for line in lines for turn in line.worker.turns for portion in turn.portions]
        for lines in house.lines
    ]


# -- who draws what --------------------------------------------------------------------------------


def test_free_replicas_draw_at_the_same_time_and_every_job_once(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(2, held)
        async with housed(tmp_path, house) as service:
            jobs = [await service.submit(asked(seed=seed), LOCAL) for seed in range(6)]
            await until(lambda: all(house.lines) and house.fake(1).begun.is_set())
            assert house.fake(0).begun.is_set()
            assert [p["state"] for p in service.snapshot(LOCAL).painters] == ["drawing"] * 2
            assert len(service.snapshot(LOCAL).running) == 2
            for k in range(2):
                house.fake(k).go.set()
            assert [job.state for job in await over(service, jobs)] == [State.DONE] * 6
            first, second = drawn(house)
            assert sorted(first + second) == sorted(job.id for job in jobs)
            assert len(first) >= 2 and len(second) >= 2
            for job in jobs:
                (kept,) = await service.results(job.id, LOCAL)
                shown = await service.opened(kept.id, LOCAL)
                assert np.array_equal(shown.pixels, picture_of(job.request).pixels)

    run(work)


def test_a_large_job_is_shared_out_and_each_picture_drawn_once(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(2, lambda: FakePainter(0.01))
        async with housed(tmp_path, house) as service:
            job = await service.submit(asked(count=11), LOCAL)
            events = await told(service, job.id)
            pictures = await service.results(job.id, LOCAL)
            assert [picture.seed for picture in pictures] == [3 + k for k in range(11)]
            indices = [
                index
                for line in house.all()
                for turn in line.worker.turns
                for portion in turn.portions
                for index in portion.indices
            ]
            assert sorted(indices) == list(range(11))
            assert all(ids for ids in drawn(house))
            progress = [e.body.progress for e in events if isinstance(e.body, Stepped)]
            assert progress == sorted(progress) and progress[-1] == 1.0

    run(work)


def test_owners_take_turns_over_all_replicas(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(2, held)
        async with housed(tmp_path, house) as service:
            greedy = [await service.submit(asked(), ANN) for _ in range(8)]
            await until(lambda: len(service.snapshot(ANN).running) == 2)
            modest = await service.submit(asked(), BOB)
            assert service.job(modest.id, BOB).position == 1
            await until(lambda: all(house.lines))
            for k in range(2):
                house.fake(k).go.set()
            ends = await over(service, [modest, *greedy])
            finished = [job.finished for job in ends]
            assert all(at is not None for at in finished)
            assert finished[0] <= sorted(finished)[4]  # type: ignore[type-var, operator]

    run(work)


def test_a_free_replica_that_has_the_model_is_taken_first(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(3)
        async with housed(tmp_path, house) as service:
            blocker = await service.submit(asked(), LOCAL)
            await over(service, [blocker])
            (knows,) = [k for k in range(3) if house.lines[k]]
            for _ in range(4):
                await over(service, [await service.submit(asked(), LOCAL)])
            assert [len(ids) for ids in drawn(house)] == [5 if k == knows else 0 for k in range(3)]

    run(work)


def test_a_new_model_is_loaded_by_all_before_it_is_used(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(2)
        async with housed(tmp_path, house) as service:
            await service.use_model("plain")
            assert [len(house.fake(k).prepared) for k in range(2)] == [1, 1]
            models = [p["models"] for p in service.snapshot(LOCAL).painters]
            assert models == [["plain"]] * 2

    run(work)


def test_a_model_that_no_replica_can_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safelight.server import service as module
    from safelight.server.registry import Listed, Registry

    items = [Listed(n, tmp_path / f"{n}.safetensors", "model") for n in ("plain", "broken")]
    monkeypatch.setattr(module, "listed", lambda *_: Registry(items))

    async def work() -> None:
        async with housed(tmp_path, House(2)) as service:
            with pytest.raises(FileError, match="broken"):
                await service.use_model("broken")
            assert service.model == "plain"

    run(work)


# -- what is heard and cancelled -------------------------------------------------------------------


def test_steps_and_previews_come_back_by_job(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(2, lambda: FakePainter(0.01))
        async with housed(tmp_path, house) as service:
            jobs = [await service.submit(asked(steps=4 + k), LOCAL) for k in range(2)]
            for job, events in zip(
                jobs, [await told(service, job.id) for job in jobs], strict=True
            ):
                bodies = [e.body for e in events if isinstance(e.body, Stepped)]
                steps = job.request.steps
                assert [body.step for body in bodies] == list(range(1, steps + 1))
                assert {body.steps for body in bodies} == {steps}
            late = await service.submit(asked(steps=40), LOCAL)
            await until(lambda: service.preview(late.id, LOCAL) is not None)
            shown = service.preview(late.id, LOCAL)
            assert shown is not None and shown[:2] == b"\xff\xd8"

    run(work)


@pytest.mark.parametrize("step", [0, 1, 5])
def test_what_is_cancelled_stops_in_its_replica_and_nowhere_else(tmp_path: Path, step: int) -> None:
    async def work() -> None:
        house = House(2, lambda: FakePainter(0.02))
        async with housed(tmp_path, house) as service:
            jobs = [await service.submit(asked(steps=40, seed=seed), LOCAL) for seed in (1, 2)]
            await until(lambda: all(service.job(job.id, LOCAL).step >= step for job in jobs))
            await service.cancel(jobs[0].id, LOCAL)
            after = await service.submit(asked(steps=1), LOCAL)
            assert (await over(service, [after]))[0].state is State.DONE
            assert not service.job(jobs[1].id, LOCAL).state.over, "its replica was free at once"
            assert (await over(service, jobs[1:]))[0].state is State.DONE
            assert service.job(jobs[0].id, LOCAL).state is State.CANCELLED
            assert await service.results(jobs[0].id, LOCAL) == []
            stops = [jobs for line in house.all() for _, jobs in line.worker.stops]
            assert stops == ([[jobs[0].id]] if stops else [])

    run(work)


def test_of_a_shared_batch_only_the_cancelled_job_is_left_out(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(1, held)
        async with housed(tmp_path, house) as service:
            blocker = await service.submit(asked(), LOCAL)
            await until(lambda: bool(house.lines[0]))
            plain = [
                await service.submit(asked(exact=False, seed=n, steps=30), LOCAL) for n in range(3)
            ]
            house.fake(0).go.set()
            await over(service, [blocker])
            await until(lambda: service.job(plain[1].id, LOCAL).step >= 2)
            await service.cancel(plain[1].id, LOCAL)
            states = [job.state for job in await over(service, plain)]
            assert states == [State.DONE, State.CANCELLED, State.DONE]
            assert house.fake(0).turns[1] == {job.id: 1 for job in plain}

    run(work)


# -- what a death costs ----------------------------------------------------------------------------


def test_the_job_of_a_dead_replica_is_drawn_again_once(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(2, lambda: FakePainter(0.02))
        async with housed(tmp_path, house) as service:
            jobs = [await service.submit(asked(steps=30, seed=seed), LOCAL) for seed in (1, 2, 3)]
            await until(lambda: all(service.job(job.id, LOCAL).step >= 3 for job in jobs[:2]))
            house.kill(0)
            (lost,) = {portion.job for portion in house.lines[0][0].worker.turns[0].portions}
            ends = await over(service, jobs)
            assert [job.state for job in ends] == [State.DONE] * 3
            assert [job.restarted for job in ends] == [job.id == lost for job in ends]
            for job in jobs:
                assert len(await service.results(job.id, LOCAL)) == 1
            kinds = [event.kind for event in await told(service, lost)]
            assert kinds.count("picture") == kinds.count("done") == 1
            assert kinds.count("started") == 2
            await until(lambda: service.snapshot(LOCAL).painters[0]["state"] == "free")
            assert [p["deaths"] for p in service.snapshot(LOCAL).painters] == [1, 0]
            assert len(house.lines[0]) == 2  # a new one in its place

    run(work)


def test_a_job_whose_replicas_die_twice_fails_and_says_so(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(1, lambda: FakePainter(0.02))
        async with housed(tmp_path, house) as service:
            job = await service.submit(asked(steps=100), LOCAL)
            for lived in (1, 2):
                await until(
                    lambda lived=lived: (  # type: ignore[misc]
                        len(house.lines[0]) == lived and service.job(job.id, LOCAL).step >= 2
                    )
                )
                house.kill(0)
            failed = (await over(service, [job]))[0]
            assert failed.state is State.FAILED and failed.failure is not None
            assert failed.failure.kind == "died" and "died twice" in failed.failure.message
            after = await service.submit(asked(steps=1), LOCAL)
            assert (await over(service, [after]))[0].state is State.DONE

    run(work)


class Poisoned(FakePainter):
    """One job kills whatever draws it."""

    def __init__(self, house: list[House]) -> None:
        super().__init__(0.01, held=not house[0].lines[0])
        self._house = house

    def draw(self, turn: Turn, listener: Listener) -> None:
        self.go.wait(20)
        if any(portion.request.prompt == "poison" for portion in turn.portions):
            time.sleep(0.1)
            self._house[0].kill(0)
            return
        super().draw(turn, listener)


def test_who_shared_a_batch_with_a_job_that_kills_is_drawn_without_it(tmp_path: Path) -> None:
    async def work() -> None:
        known: list[House] = []
        house = House(1, lambda: Poisoned(known))
        known.append(house)
        async with housed(tmp_path, house) as service:
            blocker = await service.submit(asked(), LOCAL)
            await until(lambda: bool(house.lines[0]))
            prompts = ["a cat", "poison", "a dog"]
            jobs = [
                await service.submit(asked(exact=False, prompt=prompt), LOCAL) for prompt in prompts
            ]
            house.fake(0).go.set()
            ends = await over(service, [blocker, *jobs])
            assert [job.state for job in ends[1:]] == [State.DONE, State.FAILED, State.DONE]
            assert len(house.lines[0]) == 3
            first = house.lines[0][0].worker.turns[1]
            assert len(first.portions) == 3  # they did share one

    run(work)


def test_a_replica_that_dies_idle_costs_no_job_a_try(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(1, lambda: FakePainter(0.01))
        async with housed(tmp_path, house) as service:
            await over(service, [await service.submit(asked(), LOCAL)])
            for _ in range(3):
                house.kill(0)
                (done,) = await over(service, [await service.submit(asked(), LOCAL)])
                assert done.state is State.DONE and not done.restarted

    run(work)


def test_of_a_job_that_two_draw_only_the_part_of_the_dead_one_is_drawn_again(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        house = House(2, lambda: FakePainter(0.02))
        async with housed(tmp_path, house, batch=4) as service:
            job = await service.submit(asked(count=8, steps=20), LOCAL)
            await until(lambda: all(lines and lines[0].worker.turns for lines in house.lines))
            await until(lambda: service.job(job.id, LOCAL).step >= 3)
            house.kill(1)
            (done,) = await over(service, [job])
            assert done.state is State.DONE and done.restarted
            pictures = await service.results(job.id, LOCAL)
            assert [picture.index for picture in pictures] == list(range(8))
            kinds = [event.kind for event in await told(service, job.id)]
            assert kinds.count("picture") == 8

    run(work)


def test_while_a_replica_cannot_come_back_the_other_draws_on(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(2, lambda: FakePainter(0.01))
        async with housed(tmp_path, house) as service:
            jobs = [await service.submit(asked(steps=10), LOCAL) for _ in range(2)]
            await until(lambda: all(service.job(job.id, LOCAL).step >= 1 for job in jobs))
            house.refuses = True
            house.kill(0)
            jobs += [await service.submit(asked(), LOCAL) for _ in range(4)]
            assert {job.state for job in await over(service, jobs)} == {State.DONE}
            assert service.snapshot(LOCAL).painters[0]["state"] == "dead"
            house.refuses = False
            await until(lambda: service.snapshot(LOCAL).painters[0]["state"] == "free")

    run(work)


def test_a_server_that_stops_waits_for_no_dead_replica(tmp_path: Path) -> None:
    async def work() -> None:
        house = House(1, lambda: FakePainter(0.02))
        async with housed(tmp_path, house) as service:
            job = await service.submit(asked(steps=50), LOCAL)
            await until(lambda: service.job(job.id, LOCAL).step >= 1)
            house.refuses = True
            house.kill(0)
            await until(lambda: service.snapshot(LOCAL).painters[0]["state"] == "dead")
            began = time.monotonic()
            await service.stop(5.0)
            assert time.monotonic() - began < 2.0
        async with housed(tmp_path, House(1)) as again:
            (done,) = await over(again, [job])
            assert done.state is State.DONE

    run(work)


# -- what is told ----------------------------------------------------------------------------------


def test_the_queue_and_the_metrics_tell_of_replicas(tmp_path: Path) -> None:
    from safelight.server.app import create_app

    async def work() -> None:
        house = House(2, held)
        async with housed(tmp_path, house) as service:
            app = create_app(service.settings, service=service)
            async with client_of(app) as client:
                await service.submit(asked(), LOCAL)
                await until(lambda: service.snapshot(LOCAL).painters[0]["state"] == "drawing")
                painters = (await client.get("/api/queue")).json()["painters"]
                assert [(p["name"], p["state"], p["jobs"]) for p in painters] == [
                    ("replica 1", "drawing", 1),
                    ("replica 2", "free", 0),
                ]
                text = (await client.get("/metrics")).text
                assert 'safelight_painters{state="drawing"} 1.0' in text
                assert 'safelight_painters{state="free"} 1.0' in text
                assert "safelight_painter_deaths_total 0.0" in text

    run(work)


class Teacher(FakePainter):
    """Draws lessons of three steps."""

    def draw(self, turn: Turn, listener: Listener) -> None:
        (portion,) = turn.portions
        assert portion.teaches
        lesson = Lesson({"steps": [{"sigma": 1.5}] * 3}, {"1-latents": b"RIFF", "1-noise": b"x"})
        listener.taught(portion.job.id, picture_of(portion.request), lesson)


class Heard:
    """A listener that remembers a lesson."""

    def __init__(self) -> None:
        self.lessons: list[tuple[str, Picture, Lesson]] = []

    def stopped(self, job: str) -> bool:
        return False

    def stepped(self, job: str, at: At) -> None:
        raise AssertionError

    def drawn(self, job: str, index: int, picture: Picture) -> None:
        raise AssertionError

    def taught(self, job: str, picture: Picture, lesson: Lesson) -> None:
        self.lessons.append((job, picture, lesson))

    def failed(self, job: str, failure: Failure) -> None:
        raise AssertionError(failure)


def test_a_lesson_comes_back_from_a_replica_whole() -> None:
    heard, request = Heard(), asked(seed=9)
    portion = Portion(Job("1" * 16, "ann", request, door=LESSON), request, (0,))
    painter = RemotePainter(lambda: ThreadLine(Teacher()))
    painter.draw(Turn((portion,), ("plain",)), heard)
    ((job, picture, lesson),) = heard.lessons
    assert job == "1" * 16 and np.array_equal(picture.pixels, picture_of(request).pixels)
    assert lesson.told == {"steps": [{"sigma": 1.5}] * 3}
    assert lesson.pictures == {"1-latents": b"RIFF", "1-noise": b"x"}


# -- what crosses the border -----------------------------------------------------------------------


def test_a_portion_crosses_as_texts_and_bytes(tmp_path: Path) -> None:
    picture = tmp_path / "private" / "upload.png"
    picture.parent.mkdir()
    picture.write_bytes(b"the bytes")
    request = asked(source={"picture": "ab" * 32, "strength": 0.3}, seed=2**60, cfg_scale=7.1)
    job = Job("1" * 16, "ann", request, door=LESSON)
    portion = Portion(job, request, (2, 0), {"/models/x": "x"}, {"ab" * 32: picture})
    sent = SentTurn(1, key_text(("plain", None, False)), (sent_portion(portion),))
    assert str(tmp_path) not in repr(sent)
    folder = tmp_path / "replica"
    folder.mkdir()
    turn = received(sent, folder)
    (found,) = turn.portions
    assert found.request == request
    assert found.request.model_fields_set == request.model_fields_set
    assert (found.indices, found.names, found.teaches) == ((2, 0), portion.names, portion.teaches)
    assert turn.model == ("plain", None, False)
    (path,) = found.pictures.values()
    assert path.read_bytes() == b"the bytes" and path.is_relative_to(folder)
    assert path.name == "upload.png"


def test_a_picture_comes_back_as_it_was() -> None:
    first = picture_of(asked(seed=77, width=24, height=16))
    again = picture_from(sent_picture("job", 3, first))
    assert np.array_equal(again.pixels, first.pixels)
    assert again.recipe == first.recipe and again.warnings == first.warnings
    assert again.recipe.request.model_fields_set == first.recipe.request.model_fields_set


def test_a_key_of_a_model_crosses_whole() -> None:
    key = ("plain", None, True, "v", (1, 2.5))
    assert key_of(key_text(key)) == key


# -- options ---------------------------------------------------------------------------------------


def test_replicas_without_ray_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["serve", "--replicas", "2", "--out", str(tmp_path / "out")]) == 2
    assert "--replicas, --ray-address and --silence are for Ray" in capsys.readouterr().err
    with pytest.raises(RequestError, match="from 1 to 1000"):
        ServerSettings(ray=True, replicas=0)


def test_without_ray_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(RequestError, match=r"pip install 'safelight\[ray\]'"),
        ray_painters(settings(tmp_path, ray=True)),
    ):
        pass
