"""A client that named its call learns where that call stands, and not another."""

import asyncio
from pathlib import Path

import httpx
import pytest

from safelight.server.app import create_app
from safelight.server.settings import Key
from server_fake import FakePainter, run, serving, settings
from server_http import client_of, http

pytestmark = pytest.mark.usefixtures("plain_model")
BODY = {"prompt": "a", "steps": 3, "width": 64, "height": 64}


async def asked(client: httpx.AsyncClient, name: str, **more: object) -> dict[str, object]:
    answer = await client.post("/internal/progress", json={"id_task": name, **more})
    assert answer.status_code == 200
    told: dict[str, object] = answer.json()
    return told


def test_a_named_call_is_queued_then_active_then_completed(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(held=True)
        async with http(tmp_path, painter) as (client, _):
            names = [f"task(txt2img-{number})" for number in range(2)]
            calls = []
            for steps, name in enumerate(names, start=3):  # other steps: they share no batch
                body = {**BODY, "steps": steps, "force_task_id": name}
                calls.append(asyncio.create_task(client.post("/sdapi/v1/txt2img", json=body)))
                while (told := await asked(client, name)) and not (
                    told["active"] or told["queued"]
                ):
                    await asyncio.sleep(0.005)
            while not (first := await asked(client, names[0]))["active"]:
                await asyncio.sleep(0.005)
            assert not first["queued"] and not first["completed"]
            assert isinstance(first["progress"], float)
            second = await asked(client, names[1])
            assert second["queued"] and second["textinfo"] == "In queue: 1/1"
            assert second["progress"] is None
            pending = (await client.get("/internal/pending-tasks")).json()
            assert pending == {"size": 1, "tasks": [names[1]]}
            painter.go.set()
            assert [(await call).status_code for call in calls] == [200, 200]
            over = await asked(client, names[0])
            assert over["completed"] and not over["active"]
            assert (await client.get("/internal/pending-tasks")).json()["size"] == 0

    run(work)


def test_a_name_that_is_not_known_waits_and_one_that_is_none_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            told = await asked(client, "task(nobody)", id_live_preview=4)
            assert not (told["active"] or told["queued"] or told["completed"])
            assert (told["textinfo"], told["id_live_preview"]) == ("Waiting...", 4)
            answer = await client.post("/internal/progress", json={"id_task": 5})
            assert answer.status_code == 422 and "force_task_id" in answer.json()["detail"]

    run(work)


def test_a_preview_comes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        painter = FakePainter(step=0.1)
        async with http(tmp_path, painter) as (client, _):
            body = {**BODY, "steps": 30, "force_task_id": "mine"}
            call = asyncio.create_task(client.post("/sdapi/v1/txt2img", json=body))
            while (told := await asked(client, "mine"))["live_preview"] is None:
                assert not call.done()
                await asyncio.sleep(0.01)
            assert str(told["live_preview"]).startswith("data:image/jpeg;base64,")
            known = told["id_live_preview"]
            again = await asked(client, "mine", id_live_preview=known)
            assert again["live_preview"] is None or again["id_live_preview"] != known
            off = await asked(client, "mine", live_preview=False)
            assert off["live_preview"] is None
            await client.post("/sdapi/v1/interrupt")
            await call

    run(work)


def test_nobody_learns_of_the_call_of_another(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(held=True)
        keys = (Key("ann", "secret-of-ann"), Key("bob", "secret-of-bob"))
        async with serving(tmp_path, painter, keys=keys) as service:
            app = create_app(settings(tmp_path, keys=keys), service=service)
            async with client_of(app, Authorization="Bearer secret-of-ann") as ann:
                body = {**BODY, "force_task_id": "of-ann"}
                call = asyncio.create_task(ann.post("/sdapi/v1/txt2img", json=body))
                while not (await asked(ann, "of-ann"))["active"]:
                    await asyncio.sleep(0.005)
                async with client_of(app, Authorization="Bearer secret-of-bob") as bob:
                    told = await asked(bob, "of-ann")
                    assert not (told["active"] or told["queued"] or told["completed"])
                painter.go.set()
                assert (await call).status_code == 200

    run(work)
