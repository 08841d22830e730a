"""Lessons over HTTP: whose they are, what they hold, and when they go."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from safelight.server.app import create_app
from safelight.server.jobs import LOCAL, Owner, State
from safelight.server.judge import Verdict
from safelight.server.lesson_frames import Lesson
from safelight.server.lesson_store import Lessons
from safelight.server.lessons import again_of
from safelight.server.refusals import Unknown
from safelight.server.service import Service
from safelight.server.settings import Key
from safelight.tasks.request import Request
from server_fake import FakePainter, run, settings
from server_http import client_of, http

pytestmark = pytest.mark.usefixtures("plain_model")
KEYS = (Key("ann", "secret-of-ann"), Key("bob", "secret-of-bob"))


async def drawn(client: httpx.AsyncClient, service: Service, **changes: object) -> str:
    """The id of a finished picture of the gallery."""
    given = {"prompt": "a red apple", "steps": 3, "seed": 5} | changes
    answer = await client.post("/api/jobs", json=given)
    job = await service.finished(answer.json()["id"], Owner("any"))
    return job.pictures[0][1]


async def taught(client: httpx.AsyncClient, service: Service, picture: str) -> dict[str, Any]:
    """The lesson of a picture, which is drawn now."""
    answer = await client.post("/api/lessons", json={"picture": picture})
    assert answer.status_code == 202, answer.text
    job = await service.finished(answer.json()["job"]["id"], Owner("any"))
    assert job.state is State.DONE, job.failure
    assert [id for _, id in job.pictures] == [picture]
    told = (await client.get(f"/api/lessons/{picture}")).json()
    assert isinstance(told, dict)
    return told


def test_a_lesson_has_every_step_of_its_picture(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, service):
            picture = await drawn(client, service)
            assert (await client.get(f"/api/lessons/{picture}")).status_code == 404
            told = await taught(client, service, picture)
            assert told["picture"] == picture and told["same"] is True
            steps = told["steps"]
            assert isinstance(steps, list) and [one["step"] for one in steps] == [1, 2, 3]
            assert [one["word"] for one in told["words"]] == ["a", "red", "apple"]
            for panel in ("latents", "predicted", "noise", "guidance", "word-0", "word-2"):
                shown = await client.get(f"/api/lessons/{picture}/3/{panel}")
                assert shown.headers["content-type"] == "image/webp"
                Image.open(io.BytesIO(shown.content)).load()
            for wrong in ("4/latents", "1/word-3"):
                answer = await client.get(f"/api/lessons/{picture}/{wrong}")
                assert answer.status_code == 404, wrong
            for wrong in ("0/latents", "1/lesson.json", "x/noise"):
                answer = await client.get(f"/api/lessons/{picture}/{wrong}")
                assert answer.status_code == 422, wrong

    run(work)


def test_the_gallery_keeps_one_picture_and_deletes_its_lesson_with_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, service):
            picture = await drawn(client, service)
            before = (await client.get(f"/api/pictures/{picture}")).content
            await taught(client, service, picture)
            again = await client.post("/api/lessons", json={"picture": picture})
            assert again.json() == {"picture": picture, "kept": True, "job": None}
            gallery = (await client.get("/api/gallery")).json()["pictures"]
            assert [one["id"] for one in gallery] == [picture]
            assert (await client.get(f"/api/pictures/{picture}")).content == before
            (kept,) = (tmp_path / ".safelight" / "lessons").iterdir()
            assert kept.name == f"{picture}.zip"
            await client.delete(f"/api/pictures/{picture}")
            assert list((tmp_path / ".safelight" / "lessons").iterdir()) == []
            assert (await client.get(f"/api/lessons/{picture}")).status_code == 404

    run(work)


def test_what_is_no_picture_of_the_gallery_has_no_lesson(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, service):
            for body, status in (
                ({"picture": "0" * 16}, 404),
                ({"picture": "../../etc/passwd"}, 404),
                ({"picture": 5}, 422),
                ({}, 422),
            ):
                answer = await client.post("/api/lessons", json=body)
                assert answer.status_code == status, body
            long = await drawn(client, service, steps=101)
            answer = await client.post("/api/lessons", json={"picture": long})
            assert answer.status_code == 422 and "up to 100 steps" in answer.json()["detail"]

    run(work)


def test_a_lesson_is_its_owners_alone(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path, keys=KEYS) as (nobody, service):
            app = nobody._transport.app  # type: ignore[attr-defined]
            async with (
                client_of(app, authorization="Bearer secret-of-ann") as ann,
                client_of(app, authorization="Bearer secret-of-bob") as bob,
            ):
                picture = await drawn(ann, service)
                await taught(ann, service, picture)
                for path in (f"/api/lessons/{picture}", f"/api/lessons/{picture}/1/noise"):
                    assert (await ann.get(path)).status_code == 200
                    assert (await bob.get(path)).status_code == 404
                    assert (await nobody.get(path)).status_code == 401
                answer = await bob.post("/api/lessons", json={"picture": picture})
                assert answer.status_code == 404

    run(work)


def test_a_picture_that_is_deleted_meanwhile_fails_the_lesson(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter()
        async with http(tmp_path, painter) as (client, service):
            picture = await drawn(client, service)
            painter.go.clear()
            answer = await client.post("/api/lessons", json={"picture": picture})
            twice = await client.post("/api/lessons", json={"picture": picture})
            assert twice.json()["job"]["id"] == answer.json()["job"]["id"]
            await client.delete(f"/api/pictures/{picture}")
            painter.go.set()
            job = await service.finished(answer.json()["job"]["id"], LOCAL)
            assert job.state is State.FAILED
            assert list((tmp_path / ".safelight" / "lessons").iterdir()) == []

    run(work)


def test_a_judge_sees_the_picture_of_a_lesson_too(tmp_path: Path) -> None:
    async def work() -> None:
        verdicts = [Verdict(True), Verdict(False, "it was withheld")]
        own = settings(tmp_path)
        service = Service(own, painter=FakePainter(), judge=lambda pixels: verdicts.pop(0))
        await service.start(load=False)
        async with client_of(create_app(own, service=service)) as client:
            picture = await drawn(client, service, model="plain")
            answer = await client.post("/api/lessons", json={"picture": picture})
            job = await service.finished(answer.json()["job"]["id"], LOCAL)
            assert job.failure is not None and job.failure.kind == "withheld"
            assert (await client.get(f"/api/lessons/{picture}")).status_code == 404
        await service.stop()

    run(work)


def test_the_store_forgets_what_was_not_looked_at_for_longest(tmp_path: Path) -> None:
    lesson = Lesson({"steps": []}, {"1-noise": bytes(1000)})
    store = Lessons(tmp_path, most=3000)
    for picture in ("a" * 16, "b" * 16):
        store.save(picture, lesson, same=True)
        os.utime(tmp_path / f"{picture}.zip", (1000, 1000))
    store.told("a" * 16)  # looked at: the other one goes
    store.save("c" * 16, lesson, same=False)
    assert store.picture("a" * 16, 1, "noise") == bytes(1000)
    with pytest.raises(Unknown, match="no lesson"):
        store.told("b" * 16)
    with zipfile.ZipFile(tmp_path / f"{'c' * 16}.zip") as file:
        assert file.testzip() is None


def test_settings_that_are_the_servers_are_left_to_it() -> None:
    request = Request(prompt="a", device="cpu", dtype="fp32", batch=3, look_up=False, seed=4)
    again = again_of(request)
    assert again.model_fields_set == {"prompt", "look_up", "seed"}
