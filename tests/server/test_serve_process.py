"""The server as a process: signals, kill -9, and what it says when it cannot start."""

import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from safelight.cli.main import run
from server_process import Served, killed, started, waited


@pytest.fixture
def server(tmp_path: Path, models: Path) -> Iterator[Served]:
    made = started(tmp_path / "out", models, "--batch", "1")
    yield made
    killed(made)


def last_error(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The one line with which a command line ends that cannot start a server."""
    assert run(["serve", *map(str, args)]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: "), err
    return err


# -- before it starts ------------------------------------------------------------------------------


def test_a_taken_port_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = last_error(capsys, "--port", port, "--out", tmp_path / "out")
    assert f"port {port}" in told and "give another --port" in told


def test_listening_for_others_without_a_key_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = last_error(capsys, "--listen", "0.0.0.0", "--out", tmp_path / "out")
    assert "give --api-key, or --insecure" in told
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_is_said_in_one_line(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ("--port", 0, "--out", tmp_path / "out", "--models", models)
    told = last_error(capsys, "--model", "oen", *rest)
    assert "there is no model oen" in told and "did you mean" in told


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--device", "cuda:99", "device"),
        ("--device", "abacus", "device must be"),
        ("--dtype", "fp3", "dtype must be"),
        ("--engine", "steam", "engine must be"),
        ("--offload", "all", "offload must be"),
    ],
)
def test_what_cannot_be_computed_with_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, words: str
) -> None:
    assert words in last_error(capsys, option, value, "--port", 0, "--out", tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    told = last_error(capsys, "--port", 0, "--out", tmp_path / "file")
    assert "cannot make the folder" in told


def test_keys_are_read_from_options_files_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safelight.cli.serving import keys_of
    from safelight.errors import FileError

    file = tmp_path / "keys"
    file.write_text("# ours\n\nann=secret-of-ann\nplain-secret==\n")
    monkeypatch.setenv("SAFELIGHT_API_KEY", "from-the-environment")
    keys = keys_of(["bob=secret-of-bob"], file)
    assert [(key.name, key.secret) for key in keys] == [
        ("bob", "secret-of-bob"),
        ("ann", "secret-of-ann"),
        ("plain-secret", "="),
        ("key-4", "from-the-environment"),
    ]
    with pytest.raises(FileError, match="cannot be read"):
        keys_of([], tmp_path / "none")
    file.write_text("# nobody\n")
    with pytest.raises(FileError, match="holds no API key"):
        keys_of([], file)


# -- while it runs ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_says_where_it_is_and_draws(server: Served, tmp_path: Path) -> None:
    assert server.said.startswith("Safelight serves http://127.0.0.1:")
    server.ready()
    job = server.over(server.submit(seed=3)["id"])
    assert job["state"] == "done"
    picture = server.get(f"/api/pictures/{job['pictures'][0]['id']}")
    assert picture.body.startswith(b"\x89PNG")
    stream = server.get(f"/api/jobs/{job['id']}/events").body.decode()
    assert stream.rstrip().splitlines()[-2] == "event: done"
    assert server.headers == {} and "server" not in {h.lower() for h in picture.headers}


@pytest.mark.slow
def test_status_stays_quick_while_it_draws(server: Served) -> None:
    server.ready()
    server.submit(steps=150, width=128, height=128)
    slowest = 0.0
    for _ in waited(3.0):
        began = time.monotonic()
        server.get("/api/queue")
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 2.0


@pytest.mark.slow
def test_a_stream_that_ends_early_cancels_the_job_it_holds(server: Served) -> None:
    server.ready()
    # longer than a job is held without a connection
    long = {"prompt": "x", "steps": 200, "width": 768, "height": 768}
    answer = server.ask("POST", "/api/jobs?hold=connection", long)
    id = answer.json()["id"]
    host, port = server.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)))) as line:
        line.sendall(f"GET /api/jobs/{id}/events HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        assert b"200 OK" in line.recv(4000)
    other = server.submit(steps=1)
    job = server.over(id)
    assert job["state"] == "cancelled" and "nobody follows" in job["reason"]
    assert server.over(other["id"])["state"] == "done"


@pytest.mark.slow
def test_a_connection_that_sends_no_head_is_closed(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = started(tmp_path / "out", models)
    host, port = made.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)))) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        line.settimeout(40)
        began = time.monotonic()
        assert line.recv(100) == b""
        assert 10 < time.monotonic() - began < 35
    killed(made)


@pytest.mark.slow
def test_sigterm_finishes_what_runs_keeps_what_waits_and_ends_with_0(
    server: Served, tmp_path: Path, models: Path
) -> None:
    server.ready()
    jobs = [server.submit(seed=n, steps=30) for n in range(3)]
    for _ in waited(30):
        if server.job(jobs[0]["id"])["step"] >= 1:
            break
    server.signal(signal.SIGTERM)
    for _ in waited(5):
        answer = server.get("/ready")
        if answer.status == 503:
            break
    assert answer.status == 503 and answer.json()["status"] == "stopping"
    assert server.ended() == 0
    again = started(tmp_path / "out", models)
    again.ready()
    ended = [again.over(job["id"]) for job in jobs]
    assert [job["state"] for job in ended] == ["done"] * 3
    assert not any(job["restarted"] for job in ended)
    killed(again)


@pytest.mark.slow
def test_a_second_sigterm_ends_at_once(server: Served) -> None:
    server.ready()
    server.submit(steps=200, width=256, height=256)
    time.sleep(0.5)
    server.signal(signal.SIGTERM)
    for _ in waited(5):
        if server.get("/ready").status == 503:
            break
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.ended(10) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 1.0


@pytest.mark.slow
def test_beyond_its_grace_a_running_job_waits_for_the_next_start(
    tmp_path: Path, models: Path
) -> None:
    first = started(tmp_path / "out", models, "--grace", "0.2", "--batch", "1")
    first.ready()
    job = first.submit(steps=150, width=128, height=128, seed=1)
    for _ in waited(30):
        if first.job(job["id"])["step"] >= 2:
            break
    first.signal(signal.SIGTERM)
    assert first.ended() == 0
    killed(first)
    second = started(tmp_path / "out", models)
    assert second.job(job["id"])["state"] in ("queued", "running")
    second.ask("DELETE", f"/api/jobs/{job['id']}")
    killed(second)


@pytest.mark.slow
def test_a_second_server_in_the_same_folder_is_refused(
    server: Served, tmp_path: Path, models: Path
) -> None:
    with pytest.raises(AssertionError, match="another server works in"):
        started(tmp_path / "out", models)


@pytest.mark.slow
def test_kill_minus_nine_with_a_queue_of_ten_loses_nothing_and_doubles_nothing(
    tmp_path: Path, models: Path
) -> None:
    dice, out = random.Random(1), tmp_path / "out"
    server = started(out, models, "--batch", "2")
    server.ready()
    ids = [server.submit(seed=n, prompt=f"number {n}", steps=6)["id"] for n in range(10)]
    for _ in range(4):
        time.sleep(dice.uniform(0.0, 1.0))
        killed(server)
        for path in out.glob("20*/*"):
            assert path.suffix in (".png", ".part"), path
            if path.suffix == ".png":
                with Image.open(path) as image:
                    image.load()
        server = started(out, models, "--batch", "2")
    ended = [server.over(id) for id in ids]
    died = [job for job in ended if job["state"] == "failed"]
    assert all(job["error"]["kind"] == "died" for job in died)
    assert all(job["state"] in ("done", "failed") for job in ended)
    assert len(died) <= 4
    gallery = server.get("/api/gallery?limit=200").json()["pictures"]
    done = [job for job in ended if job["state"] == "done"]
    assert sorted(p["job"] for p in gallery) == sorted({p["job"] for p in gallery})
    assert {job["id"] for job in done} <= {p["job"] for p in gallery}
    files = {path.relative_to(out).as_posix() for path in out.glob("20*/*.png")}
    assert files == {p["file"] for p in gallery}
    killed(server)


@pytest.mark.slow
def test_thirty_two_clients_each_get_their_own_seeds_picture(tmp_path: Path, models: Path) -> None:
    server = started(tmp_path / "out", models, "--batch", "8")
    server.ready()
    found: dict[int, dict[str, object]] = {}

    def client(seed: int) -> None:
        job = server.over(server.submit(seed=seed, prompt=f"of {seed}")["id"], 120)
        found[seed] = server.get(f"/api/pictures/{job['pictures'][0]['id']}/recipe").json()

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180)
    for seed in range(32):
        request = found[seed]["request"]
        assert isinstance(request, dict)
        assert (request["seed"], request["prompt"]) == (seed, f"of {seed}")
    assert max(r["request"]["batch"] for r in found.values()) == 8  # type: ignore[index,call-overload]
    killed(server)
