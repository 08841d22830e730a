"""OpenAI's own client for JavaScript draws, edits, varies and streams, and raises its own errors.

The client is installed with `npm ci --prefix tests/server/javascript`, as `make test`
does where there is npm; the tests never fetch it.
"""

import base64
import io
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from safelight.errors import NonFiniteError
from safelight.server.registry import Listed, Registry
from safelight.tasks.request import Request
from server_fake import FakePainter
from server_live import live

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parent / "javascript"
NODE = shutil.which("node")

if NODE is None:
    pytest.skip("there is no Node on this machine", allow_module_level=True)
if not (FOLDER / "node_modules" / "openai").is_dir():
    pytest.skip("run npm ci --prefix tests/server/javascript first", allow_module_level=True)


class Painter(FakePainter):
    """One that breaks when it is told to, and takes its time when it is told to."""

    def __init__(self) -> None:
        super().__init__(step=0.01)
        self.fails = broken


def broken(request: Request) -> Exception | None:
    return NonFiniteError("NaN at step 3 of plain") if request.prompt == "break" else None


def png(hole: bool = False) -> str:
    image = Image.new("RGBA", (64, 64), (9, 99, 199, 255))
    if hole:
        image.paste((0, 0, 0, 0), (0, 0, 32, 32))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """All that the client was given, by one run of Node."""
    folder = tmp_path_factory.mktemp("javascript")
    items = [Listed("plain", folder / "plain.safetensors", "model", "SD 1.5", size=5)]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SAFELIGHT_HOME", "SAFELIGHT_CACHE", "HF_HUB_CACHE"):
            patch.setenv(name, str(folder / name.lower()))
        patch.setattr("safelight.server.service.listed", lambda *_: Registry(items))
        with live(folder / "out", Painter()) as port:
            assert NODE is not None
            done = subprocess.run(
                [NODE, "images.mjs", f"http://127.0.0.1:{port}/v1", png(), png(hole=True)],
                cwd=FOLDER,
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
            )
            over = states(port)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert isinstance(told, dict)
    return told | {"states": over}


def states(port: int) -> Mapping[str, str]:
    """How the job of each prompt ended, once all have."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/jobs", params={"limit": 100})
        found = {job["request"]["prompt"]: str(job["state"]) for job in answer.json()["jobs"]}
        if not {"queued", "running"} & set(found.values()):
            return found
        time.sleep(0.1)
    pytest.fail(f"jobs that nobody waits for go on: {found}")


def test_pictures_of_a_text(found: Mapping[str, Any]) -> None:
    made = found["generated"]
    pictures = [opened(one["b64_json"]) for one in made["data"]]
    assert [picture.getpixel((0, 0))[0] for picture in pictures] == [7, 8]  # type: ignore[index]
    assert made["size"] == "64x64" and made["usage"]["output_tokens"] == 2 * 8 * 8
    assert "quality" in str(made["warnings"])
    assert "/v1" not in found["linked"]["data"][0]["url"]
    assert "/api/pictures/" in found["linked"]["data"][0]["url"]
    assert opened(found["jpeg"]["data"][0]["b64_json"]).format == "JPEG"


def test_edits_and_variations(found: Mapping[str, Any]) -> None:
    assert [opened(one["b64_json"]).size for one in found["edited"]["data"]] == [(64, 64)]
    assert [opened(one["b64_json"]).size for one in found["varied"]["data"]] == [(64, 64)] * 2


def test_pictures_on_the_way(found: Mapping[str, Any]) -> None:
    events = found["stream"]
    assert [event["type"] for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [event.get("index") for event in events[:2]] == [0, 1]
    last = events[-1]
    assert opened(last["picture"]).getpixel((0, 0))[0] == 9  # type: ignore[index]
    assert last["usage"]["output_tokens"] == 8 * 8 and last["format"] == "png"
    kinds = [event["type"] for event in found["editStream"]]
    assert kinds[-1] == "image_edit.completed" and set(kinds[:-1]) <= {"image_edit.partial_image"}


def test_models(found: Mapping[str, Any]) -> None:
    assert found["models"] == ["plain"]
    assert found["model"]["id"] == "plain" and found["model"]["object"] == "model"


@pytest.mark.parametrize(
    ("what", "kind", "status"),
    [
        ("noPrompt", "BadRequestError", 400),
        ("size", "UnprocessableEntityError", 422),
        ("many", "BadRequestError", 400),
        ("model", "NotFoundError", 404),
        ("noModel", "NotFoundError", 404),
        ("picture", "UnprocessableEntityError", 422),
        ("noRoute", "NotFoundError", 404),
        ("broken", "InternalServerError", 500),
    ],
)
def test_errors_are_the_client_s_own(
    found: Mapping[str, Any], what: str, kind: str, status: int
) -> None:
    error = found["errors"][what]
    assert (error["kind"], error["status"]) == (kind, status), error
    assert error["code"] and error["type"] and error["message"]
    assert "Traceback" not in error["message"]


def test_the_error_of_a_field_names_it(found: Mapping[str, Any]) -> None:
    assert found["errors"]["noPrompt"]["param"] == "prompt"
    assert found["errors"]["many"]["param"] == "n"


def test_what_is_given_up_is_not_drawn_to_its_end(found: Mapping[str, Any]) -> None:
    assert found["errors"]["aborted"]["kind"] == "APIUserAbortError"
    assert found["states"]["held"] == "cancelled" and found["states"]["a cat"] == "done"
