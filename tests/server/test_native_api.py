"""The native API as a client sees it."""

import asyncio
import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from safelight.server.jobs import LOCAL
from safelight.server.registry import Listed, Registry
from server_fake import FakePainter, run
from server_http import http

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def plain_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A registry of things that nobody reads: the painter needs none."""
    items = [
        Listed("plain", tmp_path / "plain.safetensors", "model", "SD 1.5", size=5),
        Listed("other", tmp_path / "other.safetensors", "model"),
        Listed("style", tmp_path / "style.safetensors", "lora"),
    ]
    monkeypatch.setattr("safelight.server.service.listed", lambda *_: Registry(items))


def png(side: int = 16, colour: int = 200) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), colour, np.uint8), "RGB").save(buffer, "PNG")
    return buffer.getvalue()


async def submitted(client: httpx.AsyncClient, **settings: object) -> Json:
    body = {"prompt": "a cat", "steps": 2, "seed": 4} | settings
    answer = await client.post("/api/jobs", json=body)
    assert answer.status_code == 202, answer.text
    found: Json = answer.json()
    assert answer.headers["location"] == f"/api/jobs/{found['id']}"
    return found


async def over(client: httpx.AsyncClient, id: str) -> Json:
    for _ in range(1000):
        found: Json = (await client.get(f"/api/jobs/{id}")).json()
        if found["state"] not in ("queued", "running"):
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("it never ends")


def events_of(text: str) -> list[tuple[int, str, Json]]:
    """The events of a stream, with their numbers and kinds."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in lines:
            found.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return found


def test_a_job_goes_its_way_from_settings_to_picture(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            job = await submitted(client, count=2)
            assert job["state"] == "queued" and job["request"]["model"] == "plain"
            done = await over(client, job["id"])
            assert done["state"] == "done" and len(done["pictures"]) == 2
            stream = await client.get(f"/api/jobs/{job['id']}/events")
            assert stream.headers["content-type"].startswith("text/event-stream")
            kinds = [kind for _, kind, _ in events_of(stream.text)]
            assert kinds[-3:] == ["picture", "picture", "done"]
            id = done["pictures"][1]["id"]
            picture = await client.get(f"/api/pictures/{id}")
            assert picture.headers["content-type"] == "image/png"
            assert picture.headers["x-content-type-options"] == "nosniff"
            with Image.open(io.BytesIO(picture.content)) as image:
                assert image.size == (64, 64) and "parameters" in image.info
            for kind, mark in (("jpg", b"\xff\xd8"), ("webp", b"RIFF")):
                other = await client.get(f"/api/pictures/{id}", params={"format": kind})
                assert other.content.startswith(mark)
            small = await client.get(f"/api/pictures/{id}/thumbnail", params={"side": 32})
            with Image.open(io.BytesIO(small.content)) as image:
                assert image.size == (32, 32)
            recipe = (await client.get(f"/api/pictures/{id}/recipe")).json()
            assert recipe["request"]["seed"] == 5

    run(work)


def test_a_recipes_request_can_be_submitted_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            job = await over(client, (await submitted(client))["id"])
            id = job["pictures"][0]["id"]
            recipe = (await client.get(f"/api/pictures/{id}/recipe")).json()
            again = recipe["request"] | {"model": "plain"}
            answer = await client.post("/api/jobs", json=again)
            assert answer.status_code == 202, answer.text
            second = await over(client, answer.json()["id"])
            other = second["pictures"][0]["id"]
            a, b = [
                np.asarray(Image.open(io.BytesIO((await client.get(f"/api/pictures/{i}")).content)))
                for i in (id, other)
            ]
            assert np.array_equal(a, b)

    run(work)


def test_a_stream_goes_on_behind_the_last_event_that_was_heard(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            job = await submitted(client)
            await over(client, job["id"])
            url = f"/api/jobs/{job['id']}/events"
            all_ = events_of((await client.get(url)).text)
            for number, _, _ in all_:
                by_header = await client.get(url, headers={"Last-Event-ID": str(number)})
                by_query = await client.get(url, params={"after": number})
                rest = [one for one in all_ if one[0] > number]
                assert events_of(by_header.text) == events_of(by_query.text) == rest

    run(work)


def test_unknown_settings_are_told_and_left_out(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            job = await submitted(client, stepz=4, guidance={"rescal": 1, "rescale": 0.5})
            assert job["warnings"] == ["unknown settings were left out: stepz, guidance.rescal."]
            assert job["request"]["guidance"] == {"rescale": 0.5}

    run(work)


WRONG: Mapping[str, tuple[object, str]] = {
    "a number out of range": ({"prompt": "x", "steps": 0}, "steps must be"),
    "a number beyond the server's": ({"prompt": "x", "steps": 900}, "up to 200"),
    "a text for a number": ({"prompt": "x", "steps": "many"}, "steps must be"),
    "no prompt": ({"steps": 3}, "prompt is missing"),
    "a size that is odd": ({"prompt": "x", "width": 515}, "multiple of 8"),
    "an unknown sampler": ({"prompt": "x", "sampler": "Eulr"}, "Euler"),
    "an unknown model": ({"prompt": "x", "model": "plan"}, "did you mean plain"),
    "a path for a model": ({"prompt": "x", "model": "/etc/passwd"}, "no model called"),
    "an unknown LoRA": ({"prompt": "x <lora:gone:1>"}, "there is no LoRA called gone"),
    "a list": ([1, 2], "must be a JSON object"),
    "a text": ("x", "must be a JSON object"),
    "a mask without a picture": ({"prompt": "x", "mask": {"text": "y"}}, "needs a picture"),
    "another device": ({"prompt": "x", "device": "cuda"}, "device is the server's choice"),
    "a huge number": ({"prompt": "x", "seed": 10**400}, "number of"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    body, words = WRONG[case]

    async def work() -> None:
        async with http(tmp_path) as (client, service):
            answer = await client.post("/api/jobs", json=body)
            assert answer.status_code in (404, 422), answer.text
            error = answer.json()["error"]
            assert words in error["message"] and "\n" not in error["message"]
            assert str(tmp_path) not in answer.text
            assert service.jobs(LOCAL) == []

    run(work)


BAD_JSON = {
    "NaN": '{"prompt": "x", "cfg_scale": NaN}',
    "infinity": '{"prompt": "x", "cfg_scale": -Infinity}',
    "too large": '{"prompt": "x", "cfg_scale": 1e999}',
    "deep": '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "rather deep": '{"prompt": ' + "[" * 500 + "]" * 500 + "}",
    "cut": '{"prompt": "secret',
    "no text": b"\xff\xfe\x00",
    "many digits": '{"seed": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_what_is_no_json_is_refused_and_not_repeated(tmp_path: Path, case: str) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            for path in ("/api/jobs", "/api/prompt", "/api/score", "/api/session"):
                answer = await client.post(
                    path, content=BAD_JSON[case], headers={"Content-Type": "application/json"}
                )
                assert answer.status_code == 422, (path, answer.text)
                assert "secret" not in answer.text and len(answer.text) < 500

    run(work)


def test_a_cancelled_job_ends_and_a_foreign_id_is_unknown(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(held=True)
        async with http(tmp_path, painter, batch=1) as (client, _):
            first, second = await submitted(client), await submitted(client)
            gone = (await client.delete(f"/api/jobs/{second['id']}")).json()
            assert gone["state"] == "cancelled"
            queue = (await client.get("/api/queue")).json()
            assert [job["id"] for job in queue["waiting"] + queue["running"]] == [first["id"]]
            for method in ("GET", "DELETE"):
                for path in ("/api/jobs/nothing", "/api/pictures/nothing", "/api/jobs/%00"):
                    answer = await client.request(method, path)
                    assert answer.status_code == 404, answer.text

    run(work)


def test_positions_are_told_in_order(tmp_path: Path) -> None:
    async def work() -> None:
        painter = FakePainter(held=True)
        async with http(tmp_path, painter, batch=1) as (client, _):
            await submitted(client)
            for _ in range(400):
                if painter.begun.is_set():
                    break
                await asyncio.sleep(0.005)
            jobs = [await submitted(client, prompt=f"{n}") for n in range(3)]
            assert [job["position"] for job in jobs] == [1, 2, 3]
            await client.delete(f"/api/jobs/{jobs[0]['id']}")
            moved = (await client.get(f"/api/jobs/{jobs[2]['id']}")).json()
            assert moved["position"] == 2

    run(work)


# -- pictures --------------------------------------------------------------------------------------


def test_a_picture_can_be_given_in_every_way_and_keeps_one_id(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            data = png()
            text = base64.b64encode(data).decode()
            ways = [
                await client.post(
                    "/api/pictures", content=data, headers={"Content-Type": "image/png"}
                ),
                await client.post("/api/pictures", files={"picture": ("x.png", data)}),
                await client.post("/api/pictures", json={"picture": text}),
                await client.post(
                    "/api/pictures", json={"picture": f"data:image/png;base64,{text}"}
                ),
            ]
            assert [answer.status_code for answer in ways] == [201] * 4
            (id,) = {answer.json()["id"] for answer in ways}
            back = await client.get(f"/api/pictures/{id}")
            assert back.content == data and back.headers["content-type"] == "image/png"
            job = await submitted(client, source={"picture": id})
            assert job["request"]["source"]["picture"] == id
            inline = await submitted(client, source={"picture": text}, mask={"picture": text})
            assert inline["request"]["source"]["picture"] == id
            assert inline["request"]["mask"]["picture"] == id

    run(work)


BAD_PICTURES: Mapping[str, bytes] = {
    "nothing": b"",
    "a text": b"hello",
    "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a GIF": b"GIF89a" + bytes(20),
    "half a PNG": png()[:60],
    "a PNG that lies": png()[:16] + b"\x00\x01\x00\x00\x00\x01\x00\x00" + png()[24:],
    "a JPEG of noise": b"\xff\xd8\xff\xe0" + bytes(100),
    "a WebP of nothing": b"RIFF\x00\x00\x00\x00WEBPVP8X" + bytes(30),
    "a pickle": b"\x80\x04cos\nsystem\n.",
}


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_what_is_no_sound_picture_is_refused_and_not_kept(tmp_path: Path, case: str) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            headers = {"Content-Type": "application/octet-stream"}
            for path in ("/api/pictures", "/api/inspect"):
                answer = await client.post(path, content=BAD_PICTURES[case], headers=headers)
                assert answer.status_code in (413, 422), answer.text
                assert str(tmp_path) not in answer.text
            assert list((tmp_path / ".safelight" / "uploads").iterdir()) == []

    run(work)


def test_a_picture_beyond_the_limits_is_refused(tmp_path: Path) -> None:
    from safelight.server.limits import Limits

    limits = Limits(picture_pixels=100, picture_bytes=2000)

    async def work() -> None:
        async with http(tmp_path, limits=limits) as (client, _):
            headers = {"Content-Type": "image/png"}
            answer = await client.post("/api/pictures", content=png(11), headers=headers)
            assert answer.status_code == 413 and "11 x 11" in answer.text
            answer = await client.post("/api/pictures", content=bytes(2001), headers=headers)
            assert answer.status_code == 413 and "2001 bytes" in answer.text
            answer = await client.post("/api/pictures", json={"picture": "A" * 9000})
            assert answer.status_code == 413

    run(work)


def test_old_uploads_make_room_for_new_ones(tmp_path: Path) -> None:
    from safelight.server.limits import Limits
    from safelight.server.uploads import Uploads

    pictures = [png(16, colour) for colour in range(0, 250, 25)]
    room = sum(len(data) for data in pictures[-3:])
    uploads = Uploads(tmp_path / "u", Limits(uploads_bytes=room))
    ids = [uploads.add(data).id for data in pictures]
    left = {path.stem for path in (tmp_path / "u").iterdir()}
    assert left == set(ids[-3:])


def test_the_gallery_is_searched_paged_and_cleared(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            for prompt in ("a red apple", "a green apple", "a house"):
                await over(client, (await submitted(client, prompt=prompt, count=2))["id"])
            first = (await client.get("/api/gallery", params={"limit": 4})).json()
            assert [p["prompt"] for p in first["pictures"]] == ["a house"] * 2 + [
                "a green apple"
            ] * 2
            rest = (await client.get("/api/gallery", params={"before": first["next"]})).json()
            assert len(rest["pictures"]) == 2 and rest["next"] is None
            found = (await client.get("/api/gallery", params={"search": "apple red"})).json()
            assert {p["prompt"] for p in found["pictures"]} == {"a red apple"}
            for picture in found["pictures"]:
                assert (await client.delete(f"/api/pictures/{picture['id']}")).status_code == 200
                gone = await client.get(f"/api/pictures/{picture['id']}")
                assert gone.status_code == 404
            found = (await client.get("/api/gallery", params={"search": "red"})).json()
            assert found["pictures"] == []

    run(work)


def test_a_picture_tells_its_recipe_to_whoever_has_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            job = await over(client, (await submitted(client, prompt="a boat"))["id"])
            data = (await client.get(f"/api/pictures/{job['pictures'][0]['id']}")).content
            headers = {"Content-Type": "image/png"}
            told = (await client.post("/api/inspect", content=data, headers=headers)).json()
            assert told["source"] == "Safelight" and told["request"]["prompt"] == "a boat"
            assert told["pixels_match"] is True and told["width"] == 64
            plain = (await client.post("/api/inspect", content=png(), headers=headers)).json()
            assert plain["source"] == "nothing" and plain["request"] is None

    run(work)


# -- what there is ---------------------------------------------------------------------------------


def test_the_lists_tell_names_and_never_paths(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            models = (await client.get("/api/models")).json()
            assert [m["name"] for m in models["models"]] == ["other", "plain"]
            assert models["default"] == "plain"
            loras = (await client.get("/api/loras")).json()
            assert [m["name"] for m in loras["loras"]] == ["style"]
            for path in ("embeddings", "hypernetworks", "controls", "upscalers", "vaes"):
                answer = await client.get(f"/api/{path}")
                assert answer.json() == {path: []}
            assert str(tmp_path) not in json.dumps(models) + json.dumps(loras)
            samplers = (await client.get("/api/samplers")).json()["samplers"]
            assert "DPM++ 2M" in [s["name"] for s in samplers]
            schedules = (await client.get("/api/schedules")).json()["schedules"]
            assert {"Karras", "Exponential"} <= {s["name"] for s in schedules}
            limits = (await client.get("/api/limits")).json()["limits"]
            assert limits["steps"] == 200 and limits["body_bytes"] == 32 * 2**20
            settings = (await client.get("/api/settings")).json()
            assert settings["defaults"]["steps"] == 20
            assert "prompt" in settings["schema"]["Request"]["properties"]

    run(work)


def test_a_prompt_is_shown_as_it_is_read(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, service):
            service.model = None
            answer = await client.post("/api/prompt", json={"text": "a (red:1.3) [cat|dog]"})
            told = answer.json()
            assert answer.status_code == 200
            weights = {
                token["weight"]
                for text in told["texts"]
                for chunk in text["chunks"]
                for token in chunk["tokens"]
            }
            assert 1.3 in weights
            other = await client.post("/api/prompt", json={"text": "(a:1.2)", "to": "compel"})
            assert other.json()["prompt"] == "(a)1.2"
            for bad in (
                {"text": 3},
                {"text": "x" * 30_000},
                {"text": "x", "steps": 10**9},
                {"text": "x", "dialect": "klingon"},
                {"text": "x", "sampler": "none such"},
                {"text": "x", "negative": "yes"},
            ):
                assert (await client.post("/api/prompt", json=bad)).status_code == 422

    run(work)


def test_the_model_is_changed_by_name(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            assert (await client.post("/api/model", json={"name": "other"})).json() == {
                "model": "other"
            }
            assert (await client.post("/api/model", json={"name": "gone"})).status_code == 404
            assert (await client.post("/api/model", json={"name": 3})).status_code == 422
            assert (await client.get("/api/models")).json()["default"] == "other"

    run(work)


def test_the_document_names_every_path_and_every_setting(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            document = (await client.get("/openapi.json")).json()
            assert {"/api/jobs", "/api/gallery", "/health", "/metrics"} <= set(document["paths"])
            schemas = document["components"]["schemas"]
            text = json.dumps(document)
            for name in set(text.split('"#/components/schemas/')[1:]):
                assert name.split('"')[0] in schemas
            body = document["paths"]["/api/jobs"]["post"]["requestBody"]
            assert body["content"]["application/json"]["examples"]
            assert "seed" in schemas["Request"]["properties"]

    run(work)


def test_operators_see_health_readiness_and_figures(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, service):
            assert (await client.get("/health")).json()["status"] == "ok"
            assert (await client.get("/ready")).status_code == 200
            await over(client, (await submitted(client, count=3))["id"])
            await client.get("/api/jobs/none")
            text = (await client.get("/metrics")).text
            assert "safelight_pictures_total 3.0" in text
            assert 'safelight_jobs_total{state="done"} 1.0' in text
            assert 'safelight_errors_total{kind="unknown"} 1.0' in text
            assert 'route="/api/jobs/{id}"' in text and "safelight_step_seconds_bucket" in text
            service.refuse_new()
            ready = await client.get("/ready")
            assert ready.status_code == 503 and ready.json()["status"] == "stopping"
            refused = await client.post("/api/jobs", json={"prompt": "x"})
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1

    run(work)


def test_a_full_queue_is_429_with_retry_after(tmp_path: Path) -> None:
    from safelight.server.limits import Limits

    async def work() -> None:
        painter = FakePainter(held=True)
        async with http(tmp_path, painter, limits=Limits(owner_queue=2)) as (client, _):
            for _ in range(2):
                await submitted(client)
            answer = await client.post("/api/jobs", json={"prompt": "x"})
            assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["kind"] == "too_many"

    run(work)
