"""A server under attack: what was sent, and the check that it took no harm.

Every attack is answered in seconds, with no traceback, no path and no echo of much that was sent;
after it the server is healthy, and it draws the very picture that it drew before: after every
eighth, and after the last.
"""

import base64
import contextlib
import io
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from PIL import Image

from server_live import live

SECONDS = 15.0  # for one answer, on a machine that does other things as well
EVERY = 8  # attacks after which a picture is drawn
LONGEST = 3000  # bytes of a refusal
SHOWN = 200  # letters of one kind in a row that a refusal may repeat
JOBS, TXT2IMG, IMG2IMG = "/api/jobs", "/sdapi/v1/txt2img", "/sdapi/v1/img2img"
DRAWN = "/v1/images/generations"
WELL: Mapping[str, object] = {
    "prompt": "a red cat",
    "seed": 3,
    "steps": 2,
    "width": 64,
    "height": 64,
    "cfg_scale": 4,
}


@dataclass(frozen=True)
class Attack:
    """A request that no client of good will sends. body: JSON, or the bytes themselves."""

    label: str
    path: str
    body: object = None
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        """What is sent; NaN and infinities as Python writes them."""
        if isinstance(self.body, bytes):
            return self.body
        return b"" if self.body is None else json.dumps(self.body).encode()


def table(*attacks: Attack) -> pytest.MarkDecorator:
    """A test for every attack, by its label."""
    labels = [attack.label for attack in attacks]
    assert len(set(labels)) == len(labels), "two attacks of one name"
    return pytest.mark.parametrize("attack", attacks, ids=labels)


@dataclass(frozen=True)
class Target:
    """A server with a model of its own, and the picture that it drew before any attack."""

    port: int
    client: httpx.Client
    secret: tuple[str, ...]
    before: bytes
    count: "itertools.count[int]" = field(default_factory=itertools.count)

    def send(self, attack: Attack) -> httpx.Response:
        """The answer, which came in time, tells nothing, and left the server well."""
        began = time.monotonic()
        headers = {"Content-Type": "application/json"} | dict(attack.headers)
        answer = self.client.request(
            attack.method,
            attack.path,
            content=attack.content or None,
            headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        )
        assert time.monotonic() - began < SECONDS, "it took long"
        self.told_nothing(answer.status_code, answer.text)
        self.is_well(draws=next(self.count) % EVERY == 0)
        return answer

    def refuses(self, attack: Attack) -> httpx.Response:
        """The answer, a 4xx in JSON that says in words what is wrong."""
        answer = self.send(attack)
        assert 400 <= answer.status_code < 500, f"{answer.status_code}: {answer.text[:500]}"
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert len(answer.content) < LONGEST
        assert message_of(answer.json()), answer.text
        return answer

    def survives(self, attack: Attack) -> httpx.Response:
        """The answer, which may be a success."""
        answer = self.send(attack)
        assert answer.status_code < 500, f"{answer.status_code}: {answer.text[:500]}"
        return answer

    def told_nothing(self, status: int, text: str) -> None:
        """Check that an answer holds nothing of the server's inside."""
        found = [word for word in self.secret if word in text]
        assert not found, f"the answer tells {found}: {text[:500]}"
        if status >= 400:
            for letter in "Aa(9[{":
                assert letter * SHOWN not in text, "it repeats what was sent"

    def is_well(self, *, draws: bool) -> None:
        """Check that the server is healthy, and if `draws` that its picture is the one before."""
        health = self.client.get("/health")
        assert health.status_code == 200 and health.json()["status"] == "ok"
        if draws:
            assert picture(self.client) == self.before, "another picture than before"


def picture(client: httpx.Client) -> bytes:
    """The pixels of a small picture, drawn now."""
    answer = client.post(TXT2IMG, json=dict(WELL))
    assert answer.status_code == 200, answer.text[:500]
    return pixels_of(answer.json()["images"][0])


def pixels_of(text: str) -> bytes:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert image.size == (64, 64)
        return image.tobytes()


def message_of(body: object) -> str:
    """What a refusal says, in the shape of whichever API."""
    assert isinstance(body, dict)
    error = body["error"]
    told = error["message"] if isinstance(error, dict) else body["detail"]
    assert isinstance(told, str)
    return told


@contextlib.contextmanager
def attacked(
    folder: Path, models: Path, headers: Mapping[str, str] | None = None, **changes: object
) -> Iterator[Target]:
    """A server on a port of the loopback interface, which draws with a tiny model of its own.

    headers: what a client of good will sends.
    """
    out = folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SAFELIGHT_HOME", "SAFELIGHT_CACHE", "HF_HUB_CACHE"):
            patch.setenv(name, str(folder / name.lower()))
        patch.delenv("SAFELIGHT_API_KEY", raising=False)
        given: dict[str, object] = {"folders": (models,), "model": "one", "preview_every": 0}
        with (
            live(out, real=True, **(given | changes)) as port,  # type: ignore[arg-type]
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=30, headers=headers
            ) as client,
        ):
            secret = (str(folder), str(models), "Traceback", "site-packages", 'File "', "/src/")
            target = Target(port, client, secret, picture(client))
            yield target
            target.is_well(draws=True)


def png(width: int = 64, height: int = 64) -> str:
    """A small sound picture in base64."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (9, 99, 199)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
