"""`safelight serve` as a process of its own, and a client for it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]


@dataclass
class Answer:
    """Status, headers and body of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Json:
        found: Json = json.loads(self.body)
        return found


@dataclass
class Served:
    """A running server."""

    process: "subprocess.Popen[str]"
    url: str
    log: Path
    said: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: object = None, *, seconds: float = 30.0) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        headers = self.headers | ({} if data is None else {"Content-Type": "application/json"})
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def submit(self, **settings: object) -> Json:
        answer = self.ask("POST", "/api/jobs", {"prompt": "a cat", "steps": 2} | settings)
        assert answer.status == 202, answer.body
        return answer.json()

    def job(self, id: str) -> Json:
        return self.get(f"/api/jobs/{id}").json()

    def over(self, id: str, seconds: float = 60.0) -> Json:
        """The job once nothing more happens to it."""
        for _ in waited(seconds):
            job = self.job(id)
            if job["state"] not in ("queued", "running"):
                return job
        raise AssertionError(f"{id} is not over")

    def ready(self, seconds: float = 60.0) -> None:
        for _ in waited(seconds):
            if self.get("/ready").status == 200:
                return
        raise AssertionError("never ready")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = 60.0) -> int:
        return self.process.wait(seconds)


def waited(seconds: float, pause: float = 0.02) -> Iterator[float]:
    """The time that passed, again and again, until it is over."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        yield passed
        time.sleep(pause)


def started(out: Path, models: Path, *args: str, **environment: str) -> Served:
    """A server of its own process on a free port that draws with the tiny model "one"."""
    log = out.parent / f"{out.name}.log"
    command = [sys.executable, "-m", "safelight", "serve", "--port", "0", "--out", str(out)]
    command += ["--models", str(models), "--model", "one", *args]
    with log.open("a") as stream:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
    assert process.stdout is not None
    said = process.stdout.readline()
    if not said:
        process.wait(10)
        process.stdout.close()
        raise AssertionError(log.read_text())
    url = next(word for word in said.split() if word.startswith("http")).rstrip(";")
    return Served(process, url, log, said)


def killed(server: Served) -> None:
    """kill -9, and the pipe closed."""
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGKILL)
    server.process.wait(30)
    assert server.process.stdout is not None
    server.process.stdout.close()
