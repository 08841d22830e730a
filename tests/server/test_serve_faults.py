"""Faults of a running server: broken models, no memory, lost clients, odd surroundings (X5, X7 to
X10, X12, X14)."""

import os
import resource
import shutil
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from cli_tiny import tiny_model
from safelight.checkpoints.save import save
from server_process import Answer, Json, Served, killed, started, waited

pytestmark = pytest.mark.slow

SMALL = {"steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """Models one and two, and one that makes infinity of what it is given."""
    folder = tmp_path_factory.mktemp("faulty") / "models"
    shutil.copytree(models, folder)
    loud = tiny_model(3)
    with torch.no_grad():
        for name, weight in loud.network.unet.named_parameters():
            if name.startswith("mid_block.resnets.0.conv") and name.endswith("weight"):
                weight.mul_(1e36)
    save(loud, folder / "loud.safetensors", "ldm")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    made = started(folder.parent / "out", folder, "--batch", "2", "--grace", "20")
    made.ready()
    yield made
    killed(made)


@pytest.fixture
def start(models: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers in a folder, which end with the test however that ends."""
    running: list[Served] = []

    def begin(out: Path, *args: str, **environment: str) -> Served:
        running.append(started(out, models, *args, **environment))
        running[-1].ready()
        return running[-1]

    yield begin
    for one in running:
        killed(one)


def pixels_of(server: Served, job: Json) -> str:
    """What tells two pictures apart, whatever their files say of them."""
    recipe = server.get(f"/api/pictures/{job['pictures'][0]['id']}/recipe").json()
    found: str = recipe["result"]["pixels_sha256"]
    return found


def drawn(server: Served, **changes: object) -> Json:
    return server.over(server.submit(**(SMALL | {"seed": 7, "exact": True} | changes))["id"])


# -- models ----------------------------------------------------------------------------------------


def test_a_model_whose_file_is_cut_while_it_draws_with_it_does_not_end_the_server(
    server: Served, folder: Path
) -> None:
    """X5: weights that were mapped would end the process with SIGBUS."""
    path = folder / "one.safetensors"
    whole = path.read_bytes()
    before = drawn(server)
    os.truncate(path, 5000)
    try:
        after = drawn(server)
        assert after["state"] == "done", after["error"]
        assert pixels_of(server, after) == pixels_of(server, before)
        assert any("one.safetensors was changed" in text for text in after["warnings"])
    finally:
        path.write_bytes(whole)
    assert drawn(server)["warnings"] == []


def test_what_makes_nan_is_named_with_its_step_and_other_models_go_on(server: Served) -> None:
    """X7"""
    bad = drawn(server, model="loud")
    assert bad["state"] == "failed" and bad["pictures"] == []
    assert bad["error"]["kind"] == "numbers"
    assert "step 1" in bad["error"]["message"] and "mid_block" in bad["error"]["message"]
    assert drawn(server)["state"] == "done"


def test_a_model_that_cannot_be_read_is_refused_under_load_and_the_old_one_goes_on(
    server: Served, folder: Path
) -> None:
    """X12"""
    path = folder / "two.safetensors"
    whole = path.read_bytes()
    alone = drawn(server)
    path.write_bytes(whole[: len(whole) // 3])
    try:
        ids = [server.submit(**SMALL, seed=seed)["id"] for seed in range(8)]
        options = {"sd_model_checkpoint": "two"}
        answer = server.ask("POST", "/sdapi/v1/options", options)
        assert answer.status == 422, answer.body
        assert "two" in answer.json()["detail"] and str(folder) not in answer.json()["detail"]
        assert [server.over(id)["state"] for id in ids] == ["done"] * 8
        assert server.get("/api/queue").json()["model"] == "one"
    finally:
        path.write_bytes(whole)
    assert pixels_of(server, drawn(server)) == pixels_of(server, alone)


# -- memory ----------------------------------------------------------------------------------------


def virtual(pid: int) -> int:
    """Bytes of addresses that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux caps another process")
def test_a_picture_that_memory_does_not_do_for_is_507_and_a_small_one_is_drawn_after(
    server: Served,
) -> None:
    """X8"""
    before = drawn(server)
    most = virtual(server.process.pid) + 24 * 2**20
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    try:
        body = {"prompt": "x", "steps": 1, "width": 512, "height": 512, "seed": 1}
        answer = server.ask("POST", "/sdapi/v1/txt2img", body, seconds=60)
        assert answer.status == 507, answer.body
        assert "out of memory; ask for a smaller size" in answer.json()["detail"]
        after = drawn(server)
        assert after["state"] == "done", after["error"]
    finally:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, unlimited)
    assert pixels_of(server, after) == pixels_of(server, before)


# -- clients that go -------------------------------------------------------------------------------


def cut_off(server: Served, text: str, *, after: int) -> None:
    """Send a request, read so many bytes of the answer, and reset the connection."""
    host, port = server.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=30)) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.sendall(text.replace("HOST", f"{host}:{port}").encode())
        if after:
            line.recv(after)


@pytest.mark.parametrize("after", [0, 1, 300])
def test_a_client_that_goes_while_it_is_sent_its_picture_harms_nobody(
    server: Served, after: int
) -> None:
    """X9, at the sending: what was drawn stays, and the server answers the next one."""
    job = drawn(server)
    path = f"/api/pictures/{job['pictures'][0]['id']}"
    for _ in range(20):
        cut_off(server, f"GET {path} HTTP/1.1\r\nHost: HOST\r\n\r\n", after=after)
    answer = server.get(path)
    assert answer.status == 200 and answer.body.startswith(b"\x89PNG")


def test_clients_that_go_at_the_queue_and_while_they_are_drawn_free_their_places(
    server: Served,
) -> None:
    """X9, at queue and sampling: their jobs end, and the pictures of others stay what they are."""
    alone = pixels_of(server, drawn(server, exact=False))
    long = '{"prompt": "x", "steps": 200, "width": 256, "height": 256}'
    head = "POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\n"
    for _ in range(4):
        cut_off(server, f"{head}Content-Length: {len(long)}\r\n\r\n{long}", after=0)
    began = time.monotonic()
    mine = drawn(server, exact=False)
    assert mine["state"] == "done" and pixels_of(server, mine) == alone
    for _ in waited(20):
        now = server.get("/api/queue").json()
        if not now["running"] and not now["waiting"]:
            break
    else:
        raise AssertionError("jobs of clients that went are still there")
    assert time.monotonic() - began < 20
    gone = [job for job in server.get("/api/jobs?limit=20").json()["jobs"] if job["steps"] == 200]
    assert all(job["state"] == "cancelled" for job in gone)


# -- the end ---------------------------------------------------------------------------------------


def test_at_sigterm_those_who_wait_get_503_and_a_second_one_ends_within_a_second(
    tmp_path: Path, start: Callable[..., Served]
) -> None:
    """X10: one runs and ten wait; one of these by a call that blocks."""
    out = tmp_path / "out"
    server = start(out, "--batch", "1", "--grace", "60")
    long = server.submit(steps=200, width=256, height=256, seed=1)
    waiting = [server.submit(**SMALL, seed=seed)["id"] for seed in range(9)]
    answers: list[Answer] = []
    body = {"prompt": "x", "steps": 1, "seed": 1}
    caller = threading.Thread(
        target=lambda: answers.append(server.ask("POST", "/sdapi/v1/txt2img", body))
    )
    caller.start()
    for _ in waited(20):
        now = server.get("/api/queue").json()
        if len(now["waiting"]) == 10 and now["running"] and now["running"][0]["step"]:
            break
    server.signal(signal.SIGTERM)
    caller.join(10)
    assert answers and answers[0].status == 503, answers
    assert int(answers[0].headers["retry-after"]) >= 1
    assert server.get("/ready").status == 503
    refused = server.ask("POST", "/api/jobs", body)
    assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.ended(10) == 128 + signal.SIGTERM and time.monotonic() - began < 1.0
    again = start(out)
    again.ask("DELETE", f"/api/jobs/{long['id']}")
    assert [again.over(id)["state"] for id in waiting] == ["done"] * 9
    jobs = again.get("/api/jobs").json()["jobs"]
    (called,) = (job for job in jobs if job["door"] == "a1111")
    assert called["state"] == "cancelled" and "connection ended" in called["reason"]


# -- surroundings ----------------------------------------------------------------------------------


def test_it_serves_without_home_and_in_a_locale_without_unicode(
    tmp_path: Path, start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """X14: HOME unset, LC_ALL=C, and an output folder whose name that locale cannot spell."""
    for name in ("HOME", "LANG", "XDG_CACHE_HOME", "SAFELIGHT_HOME", "SAFELIGHT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    out = tmp_path / "größe 猫"
    server = start(out, "--log-prompts", **odd)
    job = server.over(server.submit(prompt="ein Kätzchen 🐈", **SMALL)["id"])
    assert job["state"] == "done", job["error"]
    found = server.get("/api/gallery?search=K%C3%A4tzchen").json()["pictures"]
    assert [one["prompt"] for one in found] == ["ein Kätzchen 🐈"]
    assert (out / found[0]["file"]).is_file()
    server.signal(signal.SIGTERM)
    assert server.ended() == 0


def has_ipv6() -> bool:
    try:
        with closing(socket.socket(socket.AF_INET6)) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_it_listens_on_the_loopback_of_ipv6(tmp_path: Path, start: Callable[..., Served]) -> None:
    """X14"""
    server = start(tmp_path / "out", "--host", "::1")
    assert server.url.startswith("http://[::1]:")
    assert drawn(server)["state"] == "done"
