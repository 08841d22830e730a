"""Lessons that a tiny model draws: the same picture again, and what is seen of it on the way."""

import io
from pathlib import Path

import pytest
from PIL import Image

from safelight.server.app import create_app
from safelight.server.jobs import LOCAL, Job, State
from safelight.server.lesson_frames import QUALITY
from safelight.server.service import Service
from server_fake import run, settings
from server_http import client_of

pytestmark = pytest.mark.slow


async def lesson_job(service: Service, **changes: object) -> tuple[Job, Job]:
    """The job of a picture, and that of its lesson."""
    given = {"prompt": "a [red:green:2] apple", "steps": 4, "seed": 3} | changes
    async with client_of(create_app(service.settings, service=service)) as client:
        drawn = await client.post("/api/jobs", json=given)
        job = await service.finished(drawn.json()["id"], LOCAL)
        again = await client.post("/api/lessons", json={"picture": job.pictures[0][1]})
        return job, await service.finished(again.json()["job"]["id"], LOCAL)


def test_a_lesson_is_of_the_pixels_of_its_picture(tmp_path: Path, models: Path) -> None:
    async def work() -> None:
        service = Service(settings(tmp_path, folders=(models,), model="one"))
        await service.start()
        async with client_of(create_app(service.settings, service=service)) as client:
            job, lesson = await lesson_job(service, sampler="euler")
            assert lesson.state is State.DONE, lesson.failure
            picture = job.pictures[0][1]
            told = (await client.get(f"/api/lessons/{picture}")).json()
            assert told["same"] is True and lesson.warnings == job.warnings
            assert len(told["steps"]) == 4
            words = [(one["text"], one["word"]) for one in told["words"]]
            assert words[1] == ("a red apple", "red") and ("a green apple", "green") in words
            assert "1" in told["steps"][0]["shares"] and "1" not in told["steps"][3]["shares"]
            # Euler's last step leads to what is predicted in it
            own = await client.get(f"/api/pictures/{picture}")
            webp = io.BytesIO()
            Image.open(io.BytesIO(own.content)).save(webp, "WEBP", method=2, quality=QUALITY)
            last = await client.get(f"/api/lessons/{picture}/4/predicted")
            assert last.content == webp.getvalue()
            first = await client.get(f"/api/lessons/{picture}/1/predicted")
            assert first.content != webp.getvalue()
        await service.stop()

    run(work, 120)


def test_another_model_of_that_name_is_told(tmp_path: Path, models: Path) -> None:
    async def work() -> None:
        folder = tmp_path / "models"
        folder.mkdir()
        (folder / "one.safetensors").write_bytes((models / "one.safetensors").read_bytes())
        service = Service(settings(tmp_path / "out", folders=(folder,), model="one"))
        await service.start()
        async with client_of(create_app(service.settings, service=service)) as client:
            job, _ = await lesson_job(service)
            (folder / "one.safetensors").write_bytes((models / "two.safetensors").read_bytes())
            picture = {"picture": job.pictures[0][1], "again": True}
            again = await client.post("/api/lessons", json=picture)
            lesson = await service.finished(again.json()["job"]["id"], LOCAL)
            assert any("came out otherwise" in warning for warning in lesson.warnings)
            told = (await client.get(f"/api/lessons/{job.pictures[0][1]}")).json()
            assert told["same"] is False
        await service.stop()

    run(work, 120)


def test_a_lesson_is_cancelled_at_a_step(tmp_path: Path, models: Path) -> None:
    async def work() -> None:
        service = Service(settings(tmp_path, folders=(models,), model="one"))
        await service.start()
        async with client_of(create_app(service.settings, service=service)) as client:
            job, _ = await lesson_job(service, steps=30)
            picture = {"picture": job.pictures[0][1], "again": True}
            again = (await client.post("/api/lessons", json=picture)).json()["job"]["id"]
            async for event in service.events(again, LOCAL):
                if event.kind == "step":
                    await service.cancel(again, LOCAL)
            assert service.job(again, LOCAL).state is State.CANCELLED
        await service.stop()

    run(work, 120)
