"""A client of the native API with nothing but Python's own library, and how pictures differ."""

import io
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Json = dict[str, Any]
WAIT = 3600.0  # seconds for one answer: the queue may be long


class Failed(Exception):
    """A request had another end than a picture."""


@dataclass(frozen=True)
class Server:
    """A running server. pid: of its process."""

    url: str
    pid: int

    def open(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The answer, to be read and closed. Raises Failed for an error of the server."""
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            return urllib.request.urlopen(request, timeout=WAIT)
        except urllib.error.HTTPError as error:
            with error:
                raise Failed(f"{error.code}: {error.read()[:300].decode()}") from None

    def get(self, path: str) -> Json:
        """An answer of JSON."""
        with self.open(path) as answer:
            found: Json = json.loads(answer.read())
        return found

    def submit(self, body: Mapping[str, object], hold: str = "server") -> str:
        """The id of a new job."""
        with self.open(f"/api/jobs?hold={hold}", body) as answer:
            found: Json = json.loads(answer.read())
        id: str = found["id"]
        return id

    def until_ready(self, seconds: float = 300.0) -> None:
        """Wait until the model is loaded. Raises Failed if it never is."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            try:
                self.get("/ready")
            except Failed:
                time.sleep(0.05)
            else:
                return
        raise Failed("the server is not ready")


def events(answer: Any) -> Iterator[Json]:
    """The data of server-sent events, until the stream ends."""
    for line in answer:
        if line.startswith(b"data: "):
            found: Json = json.loads(line[6:])
            yield found


def drawn(server: Server, body: Mapping[str, object]) -> bytes:
    """The picture of a request, once it is there. Raises Failed if it does not come."""
    id = server.submit(body)
    with server.open(f"/api/jobs/{id}/events") as answer:
        last = list(events(answer))[-1]
    if last.get("type") != "done" or len(last["pictures"]) != 1:
        raise Failed(f"job {id} ended otherwise: {json.dumps(last)[:300]}")
    with server.open(f"/api/pictures/{last['pictures'][0]}") as answer:
        data: bytes = answer.read()
    return data


def left_early(server: Server, body: Mapping[str, object], seconds: float) -> None:
    """Ask for a picture by A1111's call, which waits for it, and hang up after so many seconds."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    data = json.dumps(body).encode()
    head = (
        f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json"
    )
    with socket.create_connection((host, int(port)), timeout=WAIT) as line:
        line.sendall(f"{head}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        time.sleep(seconds)


def jobs_left(server: Server) -> int:
    """How many jobs wait or run."""
    now = server.get("/api/queue")
    return len(now["running"]) + len(now["waiting"])


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of a picture."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return image.size


def apart(first: bytes, second: bytes) -> int:
    """By how many levels of 255 two pictures differ at most; 256 if they are of two sizes."""
    arrays = []
    for data in (first, second):
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            arrays.append(np.asarray(image.convert("RGB"), dtype=np.int16))
    if arrays[0].shape != arrays[1].shape:
        return 256
    return int(np.abs(arrays[0] - arrays[1]).max())
