"""`safelight serve --ray` with two replicas on this machine: one start of Ray for all of it."""

import base64
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import test_serve_process as in_one_process
from numpy.typing import NDArray
from PIL import Image

from process_facts import family, listening, title
from safelight.model import Model
from safelight.tasks.generate import generate
from safelight.tasks.loading import Models
from safelight.tasks.request import Request
from server_process import Json, Served, killed, started, waited

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

# what one process does, replicas do: the same tests
test_it_says_where_it_is_and_draws = in_one_process.test_it_says_where_it_is_and_draws
test_status_stays_quick = in_one_process.test_status_stays_quick_while_it_draws


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, models: Path, caches: Path
) -> Iterator[Served]:
    out = tmp_path_factory.mktemp("ray") / "out"
    places = {
        "SAFELIGHT_HOME": str(caches / "home"),
        "SAFELIGHT_CACHE": str(caches / "cache"),
        "HF_HUB_CACHE": str(caches / "hub"),
    }
    options = ("--ray", "--replicas", "2", "--threads", "1", "--batch", "1", "--silence", "10")
    made = started(out, models, *options, **places)
    yield made
    left = list(family(made.process.pid))
    killed(made)
    for pid in left:
        if "ray" in title(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def server(served: Served) -> Served:
    served.ready(90)
    return served


@pytest.fixture(scope="module")
def one(models: Path) -> Model:
    """The model that the server draws with, read from its file here."""
    return Models().of(Request(prompt="", model=str(models / "one.safetensors")))


def pixels_of(server: Served, job: Json) -> NDArray[np.uint8]:
    (picture,) = job["pictures"]
    with Image.open(io.BytesIO(server.get(f"/api/pictures/{picture['id']}").body)) as image:
        return np.asarray(image)


def alone(one: Model, **settings: object) -> NDArray[np.uint8]:
    """The same picture without any server."""
    given = {"prompt": "a cat", "steps": 2, "exact": True} | settings
    (picture,) = generate(one, Request(**given))  # type: ignore[arg-type]
    return picture.pixels


def replicas(server: Served) -> list[int]:
    return [pid for pid in family(server.process.pid) if "ray::Replica" in title(pid)]


def states(server: Served) -> list[str]:
    painters: list[Json] = server.get("/api/queue").json()["painters"]
    return [painter["state"] for painter in painters]


def until_both_draw(server: Served) -> None:
    for _ in waited(30):
        if states(server) == ["drawing", "drawing"]:
            return
    raise AssertionError(states(server))


def test_each_replica_draws_what_one_process_draws(server: Served, one: Model) -> None:
    jobs = [server.submit(seed=seed, steps=20, exact=True)["id"] for seed in range(4)]
    until_both_draw(server)
    for seed, id in enumerate(jobs):
        job = server.over(id)
        assert job["state"] == "done" and not job["restarted"]
        assert np.array_equal(pixels_of(server, job), alone(one, seed=seed, steps=20))


def test_other_apis_draw_with_replicas(server: Served, one: Model) -> None:
    asked = {"prompt": "a cat", "steps": 2, "seed": 5, "width": 64, "height": 64, "cfg_scale": 7}
    answer = server.ask("POST", "/sdapi/v1/txt2img", asked | {"sampler_name": "Euler"})
    assert answer.status == 200, answer.body
    with Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]))) as image:
        assert image.size == (64, 64)
    asked = {"prompt": "a cat", "size": "64x64", "seed": 5, "steps": 2, "exact": True}
    answer = server.ask("POST", "/v1/images/generations", asked)
    assert answer.status == 200, answer.body
    with Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))) as image:
        assert np.array_equal(np.asarray(image), alone(one, seed=5, width=64, height=64))


def test_a_picture_that_is_worked_on_reaches_the_replica(server: Served, one: Model) -> None:
    first = server.over(server.submit(seed=1)["id"])
    source = {"picture": first["pictures"][0]["id"], "strength": 0.5}
    job = server.over(server.submit(seed=2, source=source)["id"])
    assert job["state"] == "done", job
    assert not np.array_equal(pixels_of(server, job), pixels_of(server, first))


def test_a_cancelled_job_frees_its_replica_before_it_is_drawn(server: Served) -> None:
    long = [server.submit(seed=seed, steps=200, width=128, height=128)["id"] for seed in range(2)]
    until_both_draw(server)
    for _ in waited(30):
        if all(server.job(id)["step"] >= 2 for id in long):
            break
    server.ask("DELETE", f"/api/jobs/{long[0]}")
    assert server.over(server.submit(steps=1)["id"])["state"] == "done"
    other = server.job(long[1])
    assert other["state"] == "running" and server.job(long[0])["state"] == "cancelled"
    server.ask("DELETE", f"/api/jobs/{long[1]}")
    for _ in waited(30):
        if states(server) == ["free", "free"]:
            break
    assert states(server) == ["free", "free"]


def test_everything_listens_on_the_loopback_interface_alone(server: Served) -> None:
    heard = set(listening(server.process.pid))
    assert heard and heard <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_a_replica_that_is_killed_loses_no_job(server: Served, one: Model) -> None:
    # the first two are drawn at the same time, for seconds
    steps = [150, 150, 2, 2]
    jobs = [server.submit(seed=n, steps=count, exact=True)["id"] for n, count in enumerate(steps)]
    until_both_draw(server)
    for _ in waited(30):
        if all(server.job(id)["step"] >= 2 for id in jobs[:2]):
            break
    assert {server.job(id)["state"] for id in jobs[:2]} == {"running"}
    first, second = replicas(server)
    os.kill(first, signal.SIGKILL)
    ended = [server.over(id, 90) for id in jobs]
    assert [job["state"] for job in ended] == ["done"] * 4
    assert sum(job["restarted"] for job in ended) == 1
    for seed, (count, job) in enumerate(zip(steps, ended, strict=True)):
        assert np.array_equal(pixels_of(server, job), alone(one, seed=seed, steps=count))
    for _ in waited(60):
        if states(server) == ["free", "free"]:
            break
    assert len(replicas(server)) == 2 and second in replicas(server)
    assert "safelight_painter_deaths_total 1.0" in server.get("/metrics").body.decode()


def test_a_replica_that_hangs_is_replaced_and_loses_no_job(server: Served, one: Model) -> None:
    jobs = [server.submit(seed=n, steps=150, exact=True)["id"] for n in range(2)]
    until_both_draw(server)
    for _ in waited(30):
        if all(server.job(id)["step"] >= 2 for id in jobs):
            break
    first, second = replicas(server)
    os.kill(first, signal.SIGSTOP)
    ended = [server.over(id, 90) for id in jobs]
    assert [job["state"] for job in ended] == ["done"] * 2
    assert sum(job["restarted"] for job in ended) == 1
    for seed, job in enumerate(ended):
        assert np.array_equal(pixels_of(server, job), alone(one, seed=seed, steps=150))
    for _ in waited(60):
        if states(server) == ["free", "free"]:
            break
    left = replicas(server)
    assert len(left) == 2 and second in left and first not in left


def test_sigterm_ends_the_server_and_all_of_ray(server: Served) -> None:
    running = server.submit(seed=1, steps=20)
    until_job_runs = (server.job(running["id"])["state"] == "running" for _ in waited(20))
    assert any(until_job_runs)
    members = set(family(server.process.pid))
    assert len(members) > 4
    server.signal(signal.SIGTERM)
    assert server.ended(60) == 0
    for _ in waited(20):
        left = [pid for pid in members if title(pid)]
        if not left:
            break
    assert not left, [title(pid) for pid in left]
