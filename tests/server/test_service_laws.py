"""What the queue promises, with a painter that draws flat colours."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from safelight.errors import FileError, OutputError, RequestError
from safelight.server.jobs import LOCAL, Done, Drawn, Event, Job, Owner, Started, State
from safelight.server.limits import Limits
from safelight.server.live import Live
from safelight.server.refusals import NotAllowed, NotNow, TooMany, Unknown
from safelight.server.service import Service, drawn_or_gone
from safelight.server.store import Store
from safelight.tasks.request import Request
from server_fake import FakePainter, run, serving, settings

ANN, BOB = Owner("ann", sees_all=False), Owner("bob", sees_all=False)


def asked(**changes: object) -> Request:
    return Request(**({"prompt": "a cat", "steps": 2, "seed": 3, "model": "plain"} | changes))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def plain_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A registry with two models that nobody reads: the painter needs none."""
    from safelight.server.registry import Listed, Registry

    def listed(*_: object) -> Registry:
        paths = {name: tmp_path / f"{name}.safetensors" for name in ("plain", "other", "broken")}
        return Registry([Listed(name, path, "model") for name, path in paths.items()])

    monkeypatch.setattr("safelight.server.service.listed", listed)


async def told(service: Service, id: str, owner: Owner = LOCAL) -> list[Event]:
    return [event async for event in service.events(id, owner)]


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


# -- from submission to picture --------------------------------------------------------------------


def test_a_job_tells_all_that_happens_to_it_in_order(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as service:
            job = await service.submit(asked(count=2), LOCAL, warnings=["look"])
            events = await told(service, job.id)
            kinds = [event.kind for event in events]
            assert kinds == ["warning", "queued", "started", "step", "step"] + ["picture"] * 2 + [
                "done"
            ]
            assert [e.number for e in events] == sorted({e.number for e in events})
            done = service.job(job.id, LOCAL)
            assert done.state is State.DONE and done.progress == 1 and not done.left
            pictures = await service.results(job.id, LOCAL)
            assert [p.seed for p in pictures] == [3, 4]
            assert [p.index for p in pictures] == [0, 1]
            opened = await service.opened(pictures[1].id, LOCAL)
            assert opened.recipe.request.seed == 4
            files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("20*/*")}
            assert files == {p.file for p in pictures}

    run(work)


def test_events_can_be_read_again_from_any_number(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as service:
            job = await service.submit(asked(), LOCAL)
            all_ = await told(service, job.id)
            kept = [event for event in all_ if event.body.kept]
            for event in all_:
                again = [e async for e in service.events(job.id, LOCAL, event.number)]
                assert again == [e for e in kept if e.number > event.number]

    run(work)


def test_a_listener_that_is_slow_hears_what_came_meanwhile_to_the_end() -> None:
    async def work() -> None:
        for closed in (False, True):
            live = Live(Job("a" * 16, "ann", Request(prompt="x", seed=1)))
            live.tell(Started(), 1.0)
            events = live.follow()
            assert (await anext(events)).kind == "started"
            live.tell(Drawn(0, "p", 1, 8, 8), 2.0)  # while the first is on its way
            live.tell(Done(1.0, ("p",)), 3.0)
            if closed:
                live.close()
            assert [event.kind async for event in events] == ["picture", "done"]

    run(work)


def test_many_listeners_hear_the_same_from_wherever_they_come_in(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(0.01)
        async with serving(tmp_path, painter) as service:
            job = await service.submit(asked(steps=12), LOCAL)
            first = asyncio.create_task(told(service, job.id))
            await until(lambda: service.job(job.id, LOCAL).step >= 4)
            second = asyncio.create_task(told(service, job.id))
            heard, late = await asyncio.gather(first, second)
            assert [e.number for e in late] == [e.number for e in heard]
            previews = [getattr(e.body, "preview", None) for e in late[:5]]
            assert previews.count(None) >= 4  # old previews are not kept

    run(work)


def test_the_seed_is_chosen_when_the_job_comes(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as service:
            job = await service.submit(asked(seed=-1), LOCAL)
            assert job.request.seed is not None and job.request.seed >= 0
            await service.finished(job.id, LOCAL)
            (picture,) = await service.results(job.id, LOCAL)
            assert picture.seed == job.request.seed

    run(work)


def test_the_time_that_is_left_is_learnt(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(0.02)
        async with serving(tmp_path, painter, batch=1) as service:
            first = await service.submit(asked(steps=10), LOCAL)
            assert first.eta is None
            await service.finished(first.id, LOCAL)
            jobs = [await service.submit(asked(steps=10), LOCAL) for _ in range(3)]
            etas = [service.job(job.id, LOCAL).eta for job in jobs]
            assert all(eta is not None for eta in etas)
            assert etas == sorted(etas)  # type: ignore[type-var]
            assert 0.1 < etas[2] < 3  # type: ignore[operator]

    run(work)


# -- sharing ---------------------------------------------------------------------------------------


def test_compatible_jobs_of_several_owners_share_a_turn(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(held=True)
        async with serving(tmp_path, painter) as service:
            jobs = [await service.submit(asked(), ANN)]
            await until(painter.begun.is_set)
            jobs += [await service.submit(asked(prompt=f"no {n}"), BOB) for n in range(3)]
            jobs.append(await service.submit(asked(steps=3), ANN))
            painter.go.set()
            for job in jobs:
                done = await service.finished(job.id, Owner("all"))
                assert done.state is State.DONE
            assert [len(turn) for turn in painter.turns] == [1, 3, 1]

    run(work)


def test_exact_jobs_share_with_nobody(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(held=True)
        async with serving(tmp_path, painter) as service:
            jobs = [await service.submit(asked(exact=True), LOCAL) for _ in range(3)]
            painter.go.set()
            for job in jobs:
                await service.finished(job.id, LOCAL)
            assert [len(turn) for turn in painter.turns] == [1, 1, 1]

    run(work)


def test_a_modest_owner_waits_at_most_two_turns_of_a_greedy_one(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(held=True)
        async with serving(tmp_path, painter, batch=2) as service:
            for n in range(12):
                await service.submit(asked(steps=3 + n % 2), ANN)
            await until(painter.begun.is_set)
            modest = await service.submit(asked(steps=9), BOB)
            assert service.job(modest.id, BOB).position <= 2
            painter.go.set()
            await service.finished(modest.id, BOB)
            place = next(n for n, turn in enumerate(painter.turns) if modest.id in turn)
            assert place <= 2

    run(work)


def test_jobs_for_one_model_are_drawn_together(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(held=True)
        async with serving(tmp_path, painter, batch=1, patience=60.0) as service:
            owners = [Owner(f"o{n}") for n in range(6)]
            for n, owner in enumerate(owners):
                model = ("plain", "other")[n % 2]
                await service.submit(asked(model=model), owner)
            painter.go.set()
            for job in service.jobs(LOCAL):
                await service.finished(job.id, LOCAL)
            names = [service.job(next(iter(t)), LOCAL).request.model for t in painter.turns]
            assert names == ["plain"] * 3 + ["other"] * 3

    run(work)


# -- bounds ----------------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_says_when_to_come_back(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(held=True)
        limits = Limits(queue=3, owner_queue=2)
        async with serving(tmp_path, painter, limits=limits, batch=1) as service:
            await service.submit(asked(), ANN)
            await until(painter.begun.is_set)
            await service.submit(asked(), ANN)
            with pytest.raises(TooMany, match="2 of your jobs wait or run") as own:
                await service.submit(asked(), ANN)
            assert own.value.retry_after is not None and 1 <= own.value.retry_after <= 60
            await service.submit(asked(), BOB)
            await service.submit(asked(), Owner("eve"))
            with pytest.raises(TooMany, match="up to 3 may"):
                await service.submit(asked(), Owner("dan"))
            painter.go.set()

    run(work)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 8192, "height": 64}, "width is 8192, and this server draws up to 4096"),
        ({"steps": 201}, "steps is 201"),
        ({"count": 101}, "count is 101"),
        ({"width": 4096, "height": 2048}, "width x height is"),
        ({"width": 2048, "height": 2048, "steps": 200, "count": 100}, "x pictures is"),
        ({"width": 1536, "height": 1536, "hires": {}}, "width x height is"),
        ({"prompt": "x" * 20_001}, "length of all texts"),
        ({"device": "cuda:7"}, "device is the server's choice"),
        ({"dtype": "bf16"}, "dtype is the server's choice"),
    ],
)
def test_more_than_the_limits_is_refused_by_name_and_value(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    async def work() -> None:
        async with serving(tmp_path) as service:
            with pytest.raises(NotAllowed, match=words):
                await service.submit(asked(**changes), LOCAL)
            assert service.jobs(LOCAL) == []

    run(work)


def test_a_deadline_ends_a_job_that_waits_and_one_that_runs(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(0.1)
        async with serving(tmp_path, painter, batch=1) as service:
            runs = await service.submit(asked(steps=100), LOCAL, seconds=0.3)
            waits = await service.submit(asked(), LOCAL, seconds=0.2)
            late = [await service.finished(job.id, LOCAL) for job in (runs, waits)]
            assert [job.state for job in late] == [State.FAILED] * 2
            assert [job.failure.kind for job in late if job.failure] == ["deadline"] * 2
            after = await service.submit(asked(), LOCAL)
            assert (await service.finished(after.id, LOCAL)).state is State.DONE

    run(work)


# -- cancelling ------------------------------------------------------------------------------------


def test_a_cancelled_job_that_waits_never_starts(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(held=True)
        async with serving(tmp_path, painter, batch=1) as service:
            first = await service.submit(asked(), LOCAL)
            await until(painter.begun.is_set)
            second = await service.submit(asked(), LOCAL)
            gone = await service.cancel(second.id, LOCAL)
            assert gone.state is State.CANCELLED
            painter.go.set()
            await service.finished(first.id, LOCAL)
            assert all(second.id not in turn for turn in painter.turns)
            assert [e.kind for e in await told(service, second.id)][-1] == "cancelled"

    run(work)


def test_a_cancelled_job_that_runs_stops_and_the_others_of_its_batch_do_not(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        painter = FakePainter(0.02, held=True)
        async with serving(tmp_path, painter) as service:
            blocker = await service.submit(asked(steps=1), LOCAL)
            await until(painter.begun.is_set)
            jobs = [await service.submit(asked(steps=20, seed=n), LOCAL) for n in range(3)]
            painter.go.set()
            await service.finished(blocker.id, LOCAL)
            await until(lambda: service.job(jobs[1].id, LOCAL).step >= 2)
            await service.cancel(jobs[1].id, LOCAL)
            states = [(await service.finished(job.id, LOCAL)).state for job in jobs]
            assert states == [State.DONE, State.CANCELLED, State.DONE]
            assert await service.results(jobs[1].id, LOCAL) == []
            assert len(await service.results(jobs[2].id, LOCAL)) == 1

    run(work)


def test_when_all_of_a_batch_are_cancelled_the_painter_stops_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(0.02)
        async with serving(tmp_path, painter) as service:
            job = await service.submit(asked(steps=200), LOCAL)
            await until(lambda: service.job(job.id, LOCAL).step >= 2)
            began = time.monotonic()
            await service.cancel(job.id, LOCAL)
            after = await service.submit(asked(), LOCAL)
            await service.finished(after.id, LOCAL)
            assert time.monotonic() - began < 1.0

    run(work)


def test_an_interrupt_hits_only_its_owners_jobs(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(0.02)
        async with serving(tmp_path, painter) as service:
            mine = await service.submit(asked(steps=30), ANN)
            theirs = await service.submit(asked(steps=30, cfg_scale=1), BOB)
            await until(lambda: service.job(mine.id, ANN).state is State.RUNNING)
            stopped = await service.cancel_running(ANN)
            assert [job.id for job in stopped] == [mine.id]
            assert (await service.finished(theirs.id, BOB)).state is State.DONE
            assert await service.cancel_running(ANN) == []

    run(work)


def test_a_job_held_by_a_connection_ends_with_it(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(held=True)
        async with serving(tmp_path, painter, batch=1, hold_seconds=0.2) as service:
            await service.submit(asked(), LOCAL)
            await until(painter.begun.is_set)
            held = await service.submit(asked(), LOCAL, hold="connection")
            kept = await service.submit(asked(), LOCAL)
            async with service.following(held.id, LOCAL):
                await asyncio.sleep(0.7)
                assert service.job(held.id, LOCAL).state is State.QUEUED
            gone = await service.finished(held.id, LOCAL)
            assert gone.state is State.CANCELLED and "nobody follows" in gone.reason
            assert service.job(kept.id, LOCAL).state is State.QUEUED
            painter.go.set()

    run(work)


def test_a_client_that_goes_takes_its_job_with_it(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(0.02)
        async with serving(tmp_path, painter) as service:
            job = await service.submit(asked(steps=100), LOCAL)
            stays = await service.submit(asked(steps=3), LOCAL)
            polls = iter([False, True])

            async def gone() -> bool:
                return next(polls)

            assert await drawn_or_gone(service, job, LOCAL, gone) is None
            assert service.job(job.id, LOCAL).state is State.CANCELLED

            async def here() -> bool:
                return False

            done = await drawn_or_gone(service, stays, LOCAL, here)
            assert done is not None and done.state is State.DONE

    run(work)


# -- whose it is -----------------------------------------------------------------------------------


def test_what_belongs_to_others_is_not_there(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as service:
            job = await service.submit(asked(), ANN, tag="t")
            await service.finished(job.id, ANN)
            (picture,) = await service.results(job.id, ANN)
            tries: list[Callable[[], Awaitable[object]]] = [
                lambda: service.cancel(job.id, BOB),
                lambda: service.picture(picture.id, BOB),
                lambda: service.picture_bytes(picture.id, BOB),
                lambda: service.delete(picture.id, BOB),
                lambda: service.results(job.id, BOB),
                lambda: service.submit(asked(source={"picture": picture.id}), BOB),
            ]
            for attempt in tries:
                with pytest.raises(Unknown):
                    await attempt()
            with pytest.raises(Unknown):
                service.events(job.id, BOB)
            assert service.jobs(BOB) == [] and await service.gallery(BOB) == []
            assert service.tagged("t", BOB) is None
            mine = service.tagged("t", ANN)
            assert mine is not None and mine.id == job.id
            await service.submit(asked(source={"picture": picture.id}), ANN)
            await service.delete(picture.id, ANN)
            assert not (tmp_path / picture.file).exists()

    run(work)


# -- failures --------------------------------------------------------------------------------------


def test_one_jobs_failure_is_its_own(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(held=True)
        painter.fails = lambda request: (
            FileError("/secret/place/x.pt is bad") if request.seed == 9 else None
        )
        async with serving(tmp_path, painter) as service:
            blocker = await service.submit(asked(cfg_scale=2), LOCAL)
            await until(painter.begun.is_set)
            jobs = [await service.submit(asked(seed=seed), LOCAL) for seed in (1, 9, 2)]
            painter.go.set()
            ended = [await service.finished(job.id, LOCAL) for job in (blocker, *jobs)]
            assert [job.state for job in ended][1:] == [State.DONE, State.FAILED, State.DONE]
            failure = ended[2].failure
            assert failure is not None and failure.kind == "file" and failure.status == 422
            assert failure.message == "x.pt is bad"

    run(work)


def test_a_painter_that_breaks_does_not_end_the_server(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter()

        def breaks(request: Request) -> Exception | None:
            if request.seed == 9:
                raise ZeroDivisionError("secret")
            return None

        painter.fails = breaks
        async with serving(tmp_path, painter) as service:
            bad = await service.finished((await service.submit(asked(seed=9), LOCAL)).id, LOCAL)
            assert bad.failure is not None and bad.failure.kind == "internal"
            assert "secret" not in bad.failure.message
            good = await service.submit(asked(), LOCAL)
            assert (await service.finished(good.id, LOCAL)).state is State.DONE

    run(work)


def test_a_picture_that_cannot_be_written_fails_its_job_and_not_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        painter = FakePainter()
        async with serving(tmp_path, painter) as service:
            full = OutputError(f"cannot write x in {tmp_path}")
            painter.fails = lambda request: full
            job = await service.finished((await service.submit(asked(), LOCAL)).id, LOCAL)
            assert job.failure is not None and job.failure.status == 507
            assert str(tmp_path) not in job.failure.message
            painter.fails = lambda request: None
            job = await service.finished((await service.submit(asked(), LOCAL)).id, LOCAL)
            assert job.state is State.DONE

    run(work)


def test_a_model_that_cannot_be_read_leaves_the_old_one_in_its_place(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter()
        async with serving(tmp_path, painter) as service:
            await service.use_model("other")
            assert service.model == "other"
            with pytest.raises(FileError, match="broken"):
                await service.use_model("broken")
            with pytest.raises(Unknown, match="did you mean other"):
                await service.use_model("othre")
            assert service.model == "other"
            job = await service.submit(Request(prompt="x", seed=1), LOCAL)
            assert job.request.model == "other"
            assert (await service.finished(job.id, LOCAL)).state is State.DONE

    run(work)


# -- ends and beginnings ---------------------------------------------------------------------------


def test_a_server_that_stops_finishes_what_runs_and_keeps_what_waits(tmp_path: Path) -> None:
    painter = FakePainter(0.02)

    async def first() -> list[Job]:
        service = Service(settings(tmp_path, batch=1), painter=painter)
        await service.start(load=False)
        jobs = [await service.submit(asked(steps=5), LOCAL) for _ in range(3)]
        await until(painter.begun.is_set)
        waiting = asyncio.create_task(drawn_or_gone(service, jobs[2], LOCAL, _never))
        stopping = asyncio.create_task(service.stop(5.0))
        await asyncio.sleep(0.01)
        assert not service.ready
        with pytest.raises(NotNow):
            await service.submit(asked(), LOCAL)
        with pytest.raises(NotNow):
            await waiting
        await stopping
        return jobs

    async def second(jobs: list[Job]) -> None:
        async with serving(tmp_path, FakePainter(), batch=1) as service:
            assert service.job(jobs[0].id, LOCAL).state is State.DONE
            for job in jobs:
                done = await service.finished(job.id, LOCAL)
                assert done.state is State.DONE and not done.restarted
                assert len(await service.results(job.id, LOCAL)) == 1

    jobs = run(first)
    assert sum(len(turn) for turn in painter.turns) == 1
    run(lambda: second(jobs))


async def _never() -> bool:
    return False


def test_what_is_not_finished_within_grace_goes_on_after_the_next_start(tmp_path: Path) -> None:
    async def first() -> str:
        service = Service(settings(tmp_path, batch=2), painter=FakePainter(0.05))
        await service.start(load=False)
        job = await service.submit(asked(steps=10, count=6), LOCAL)
        await until(lambda: len(service.job(job.id, LOCAL).pictures) >= 2)
        began = time.monotonic()
        await service.stop(0.1)
        assert time.monotonic() - began < 1.0
        return job.id

    async def second(id: str) -> None:
        painter = FakePainter()
        async with serving(tmp_path, painter, batch=2) as service:
            done = await service.finished(id, LOCAL)
            assert done.state is State.DONE and not done.restarted
            pictures = await service.results(id, LOCAL)
            assert [p.index for p in pictures] == list(range(6))
            assert sum(n for turn in painter.turns for n in turn.values()) == 4

    id = run(first)
    run(lambda: second(id))


def test_a_job_that_ran_when_the_server_died_is_begun_again_once_and_says_so(
    tmp_path: Path,
) -> None:
    private = tmp_path / ".safelight"
    private.mkdir()

    def died(attempts: int) -> Job:
        store = Store(private)
        job = Job(f"{attempts:016x}", "local", asked(), store.next_number(), created=time.time())
        store.write(job.changed(state=State.RUNNING, attempts=attempts, started=time.time()))
        store.close()
        return job

    once, twice = died(1), died(2)

    async def work() -> None:
        async with serving(tmp_path) as service:
            again = await service.finished(once.id, LOCAL)
            assert again.state is State.DONE and again.restarted
            events = [e async for e in service.events(once.id, LOCAL)]
            assert {"started": True} in [
                {e.kind: e.body.to_json()["restarted"]} for e in events if e.kind == "started"
            ]
            lost = await service.finished(twice.id, LOCAL)
            assert lost.failure is not None and lost.failure.kind == "died"

    run(work)


def test_a_picture_that_was_written_before_the_server_died_is_not_drawn_again(
    tmp_path: Path,
) -> None:
    async def first() -> tuple[str, str]:
        async with serving(tmp_path, FakePainter()) as service:
            job = await service.submit(asked(count=2), LOCAL)
            await service.finished(job.id, LOCAL)
            pictures = await service.results(job.id, LOCAL)
            return job.id, pictures[0].file

    id, file = run(first)
    store = Store(tmp_path / ".safelight")  # as if it had died right after writing the first file
    job = store.job(id)
    assert job is not None
    for _, picture in job.pictures:
        store.delete_picture(picture)
    store.write(job.changed(state=State.RUNNING, attempts=1, finished=None))
    store.close()
    second = next(p for p in tmp_path.glob("20*/*.png") if not p.match(f"*/{Path(file).name}"))
    second.unlink()

    async def again() -> None:
        painter = FakePainter()
        async with serving(tmp_path, painter) as service:
            done = await service.finished(id, LOCAL)
            assert done.state is State.DONE and len(done.pictures) == 2
            assert painter.turns == [{id: 1}]
            assert len(list(tmp_path.glob("20*/*.png"))) == 2

    run(again)


def test_events_after_a_restart_have_larger_numbers_than_any_before(tmp_path: Path) -> None:
    async def first() -> tuple[str, int]:
        service = Service(settings(tmp_path), painter=FakePainter(0.05))
        await service.start(load=False)
        job = await service.submit(asked(steps=50), LOCAL)
        last = 0
        async for event in service.events(job.id, LOCAL):
            last = event.number
            if event.kind == "step" and last > 4:
                break
        await service.stop(0.0)
        return job.id, last

    async def second(id: str, last: int) -> None:
        async with serving(tmp_path, FakePainter()) as service:
            await service.finished(id, LOCAL)
            kinds = [e.kind async for e in service.events(id, LOCAL, last)]
            assert kinds[0] == "started" and kinds[-1] == "done"

    id, last = run(first)
    run(lambda: second(id, last))


def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    async def work() -> None:
        with pytest.raises(OutputError):
            await Service(settings(tmp_path / "file")).start()
        with pytest.raises((FileError, RequestError)):
            await Service(settings(tmp_path / "o", model="nowhere")).start()


def test_a_server_without_any_model_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safelight.server.registry import Registry

    monkeypatch.setattr("safelight.server.service.listed", lambda *_: Registry([]))

    async def work() -> None:
        with pytest.raises(RequestError, match="there is no model to draw with"):
            await Service(settings(tmp_path)).start()

    run(work)
