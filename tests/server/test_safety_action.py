"""A safety checker at work: what it withholds is told by every API, and is kept by none."""

import asyncio
import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from safelight.errors import CheckpointError, FileError, RequestError
from safelight.server.jobs import LOCAL, Job, Judged, State, Stepped, Warned
from safelight.server.service import Service
from safelight.tasks.request import Request
from safety_tiny import ALWAYS, NEVER, between, tiny_checker, write_checker
from server_fake import FakePainter, picture_of, run, serving, settings
from server_http import http
from server_process import Json

pytestmark = pytest.mark.usefixtures("plain_model")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checker(tmp_path_factory.mktemp("strict"), tiny_checker(concept=ALWAYS))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checker(tmp_path_factory.mktemp("calm"), tiny_checker(concept=NEVER))


def request_of(seed: int = 1, **changes: object) -> Request:
    return Request.parse({"prompt": "x", "steps": 2, "seed": seed, **changes})


async def over(client: httpx.AsyncClient, **body: object) -> Json:
    job = (
        await client.post("/api/jobs", json={"prompt": "x", "steps": 4, "seed": 1} | body)
    ).json()
    while job["state"] in ("queued", "running"):
        await asyncio.sleep(0.01)
        job = (await client.get(f"/api/jobs/{job['id']}")).json()
    found: Json = job
    return found


def files(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("20*/*"))


def test_a_picture_that_is_withheld_is_told_with_its_reason_and_kept_nowhere(
    tmp_path: Path, strict: Path
) -> None:
    async def work() -> None:
        async with http(tmp_path, safety_checker=strict) as (client, service):
            job = await over(client)
            assert job["state"] == "failed" and job["pictures"] == []
            assert job["error"]["kind"] == "withheld"
            told = job["error"]["message"]
            assert "safety checker withheld this picture" in told and "1 of 17 concepts" in told
            verdict = {"index": 0, "outcome": "withheld", "words": told}
            assert job["verdicts"] == [verdict] and job["warnings"] == []
            assert (await client.get("/api/gallery")).json()["pictures"] == []
            stream = (await client.get(f"/api/jobs/{job['id']}/events")).text
            kinds = [line[7:] for line in stream.splitlines() if line.startswith("event: ")]
            assert "verdict" in kinds and "picture" not in kinds and kinds[-1] == "failed"
            assert service.jobs(LOCAL)[0].state is State.FAILED
        assert files(tmp_path) == []

    run(work)


def test_a_picture_that_passes_says_so(tmp_path: Path, calm: Path) -> None:
    async def work() -> None:
        async with http(tmp_path, safety_checker=calm) as (client, _):
            job = await over(client)
            assert job["state"] == "done" and job["warnings"] == []
            assert job["verdicts"] == [{"index": 0, "outcome": "passed", "words": ""}]
        assert len(files(tmp_path)) == 1

    run(work)


def test_a_server_without_checker_gives_no_verdict(tmp_path: Path) -> None:
    async def work() -> None:
        async with http(tmp_path) as (client, _):
            job = await over(client)
            assert job["state"] == "done" and job["verdicts"] == []

    run(work)


def test_of_several_pictures_only_the_flagged_one_is_withheld(tmp_path: Path) -> None:
    shades = [picture_of(request_of(seed)).pixels for seed in (1, 2)]
    checker, first = between(*shades)
    folder = write_checker(tmp_path / "checker", checker)
    out = tmp_path / "out"

    async def work() -> None:
        async with http(out, safety_checker=folder) as (client, _):
            job = await over(client, count=2)
            outcomes = [one["outcome"] for one in job["verdicts"]]
            assert outcomes == (["withheld", "passed"] if first else ["passed", "withheld"])
            assert job["state"] == "done" and job["progress"] == 1
            (kept,) = job["pictures"]
            assert kept["index"] == (1 if first else 0)
            assert any("withheld this picture" in text for text in job["warnings"])
            data = (await client.get(f"/api/pictures/{kept['id']}")).content
            with Image.open(io.BytesIO(data)) as image:
                assert np.array_equal(np.asarray(image), shades[kept["index"]])
        assert len(files(out)) == 1

    run(work)


def test_a_label_gives_the_picture_and_the_words_with_it(tmp_path: Path, strict: Path) -> None:
    async def work() -> None:
        async with http(tmp_path, safety_checker=strict, safety_action="label") as (
            client,
            service,
        ):
            job = await over(client)
            (words,) = job["warnings"]
            assert job["state"] == "done" and "safety checker flags this picture" in words
            assert job["verdicts"] == [{"index": 0, "outcome": "labelled", "words": words}]
            id = job["pictures"][0]["id"]
            recipe = (await client.get(f"/api/pictures/{id}/recipe")).json()
            assert words in recipe["result"]["warnings"]
            (kept,) = await service.results(job["id"], LOCAL)
            assert kept.warnings == (words,)
            assert np.array_equal(
                (await service.opened(id, LOCAL)).pixels, picture_of(request_of(1)).pixels
            )

    run(work)


@pytest.mark.parametrize(("action", "previews"), [("withhold", 0), ("label", 2)])
def test_what_may_be_withheld_is_not_seen_in_previews(
    tmp_path: Path, strict: Path, action: str, previews: int
) -> None:
    async def work() -> None:
        async with serving(
            tmp_path, FakePainter(), safety_checker=strict, safety_action=action
        ) as service:
            job = await service.submit(request_of(steps=4), LOCAL)
            bodies = [event.body async for event in service.events(job.id, LOCAL)]
            seen = [b for b in bodies if isinstance(b, Stepped) and b.preview]
            assert len(seen) <= previews and service.settings.previews == previews
            assert sum(isinstance(b, Stepped) for b in bodies) == 4

    run(work)


def test_a1111s_clients_get_the_reason_and_never_a_black_picture(
    tmp_path: Path, strict: Path
) -> None:
    async def work() -> None:
        async with http(tmp_path, safety_checker=strict) as (client, _):
            answer = await client.post("/sdapi/v1/txt2img", json={"prompt": "x", "steps": 2})
            assert answer.status_code == 422 and "withheld this picture" in answer.json()["detail"]

    run(work)


def test_a1111s_clients_get_the_other_pictures_and_the_verdicts(tmp_path: Path) -> None:
    shades = [picture_of(request_of(seed)).pixels for seed in (1, 2)]
    checker, first = between(*shades)
    folder = write_checker(tmp_path / "checker", checker)

    async def work() -> None:
        async with http(tmp_path / "out", safety_checker=folder) as (client, _):
            body: Json = {"prompt": "x", "steps": 2, "seed": 1, "n_iter": 2}
            answer = (await client.post("/sdapi/v1/txt2img", json=body)).json()
            assert len(answer["images"]) == 1 and len(answer["verdicts"]) == 2
            assert any("withheld this picture" in text for text in answer["warnings"])
            assert f'"seed": {2 if first else 1}' in answer["info"]
            body = {"prompt": "x", "n": 2, "seed": 1, "steps": 2}
            answer = (await client.post("/v1/images/generations", json=body)).json()
            assert len(answer["data"]) == 1 and len(answer["verdicts"]) == 2
            assert any("withheld this picture" in text for text in answer["warnings"])

    run(work)


def test_openais_clients_get_its_error_for_what_is_blocked(tmp_path: Path, strict: Path) -> None:
    async def work() -> None:
        async with http(tmp_path, safety_checker=strict) as (client, _):
            body = {"prompt": "x", "steps": 2}
            answer = await client.post("/v1/images/generations", json=body)
            error = answer.json()["error"]
            assert answer.status_code == 400 and error["code"] == "moderation_blocked"
            assert error["type"] == "image_generation_user_error"
            assert "withheld this picture" in error["message"]
            streamed = await client.post(
                "/v1/images/generations", json={**body, "stream": True, "partial_images": 2}
            )
            assert "moderation_blocked" in streamed.text and "b64_json" not in streamed.text

    run(work)


def test_a_verdict_survives_the_server_and_what_was_withheld_is_not_drawn_again(
    tmp_path: Path, strict: Path
) -> None:
    async def drawn() -> Job:
        async with serving(tmp_path, FakePainter(), safety_checker=strict) as service:
            job = await service.submit(request_of(count=2), LOCAL)
            return await service.finished(job.id, LOCAL)

    async def again(job: Job) -> None:
        painter = FakePainter()
        async with serving(tmp_path, painter, safety_checker=strict) as service:
            found = service.job(job.id, LOCAL)
            assert found.verdicts == job.verdicts and found.state is State.FAILED
            assert len(found.withheld) == 2 and found.left == ()
            bodies = [event.body async for event in service.events(job.id, LOCAL)]
            assert sum(isinstance(body, Judged) for body in bodies) == 2
            assert any(isinstance(body, Warned) for body in bodies)
            assert found.failure is not None
            assert found.failure.message.startswith("all 2 pictures were withheld; the first: ")
            assert painter.turns == []

    job = run(drawn)
    run(lambda: again(job))


def test_a_judge_that_fails_shows_nothing(tmp_path: Path) -> None:
    def broken(pixels: object) -> object:
        raise RuntimeError("no eyes")

    async def work() -> None:
        service = Service(settings(tmp_path), painter=FakePainter(), judge=broken)  # type: ignore[arg-type]
        await service.start(load=False)
        service.model = "plain"
        job = await service.submit(request_of(), LOCAL)
        ended = await service.finished(job.id, LOCAL)
        assert ended.state is State.FAILED and ended.pictures == ()
        assert ended.failure is not None and ended.failure.kind == "internal"
        await service.stop()
        assert files(tmp_path) == []

    run(work)


def test_a_checker_that_cannot_be_read_ends_the_start(tmp_path: Path, strict: Path) -> None:
    async def work() -> None:
        for path, error in (
            (tmp_path / "gone", FileError),
            (write_checker(tmp_path / "broken", tiny_checker()), CheckpointError),
        ):
            if path.exists():
                whole = (path / "config.json").read_text()
                (path / "config.json").write_text(whole.replace("96", "95"))
            service = Service(settings(tmp_path / "out", safety_checker=path))
            with pytest.raises(error):
                await service.start(load=False)

    run(work)


def test_another_action_than_withhold_and_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="safety_action must be one of withhold, label"):
        settings(tmp_path, safety_action="blacken")
