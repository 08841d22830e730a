"""A client of the Model Context Protocol draws, edits and scores, and is told what is wrong."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safelight.server.jobs import LOCAL
from safelight.server.service import Service
from server_fake import FakePainter, run, serving

mcp = pytest.importorskip("mcp", reason="the extra mcp is not installed")

pytestmark = pytest.mark.usefixtures("plain_model")


def client(service: Service) -> Any:
    from safelight.server.mcp_tools import tools

    return mcp.Client(tools(service))


def png(size: tuple[int, int] = (64, 64)) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, (9, 99, 199)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def told(result: Any) -> dict[str, Any]:
    assert not result.is_error, result
    found: dict[str, Any] = json.loads(result.content[-1].text)
    return found


def test_there_are_four_tools_that_say_what_they_do(tmp_path: Path) -> None:
    async def asks() -> None:
        async with serving(tmp_path) as service, client(service) as session:
            found = {tool.name: tool for tool in (await session.list_tools()).tools}
            assert set(found) == {"generate", "edit", "score", "models"}
            assert all(tool.description for tool in found.values())
            assert found["score"].annotations.read_only_hint
            assert not found["generate"].annotations.open_world_hint

    run(asks)


def test_pictures_come_with_ids_that_edit_takes(tmp_path: Path) -> None:
    async def asks() -> None:
        async with serving(tmp_path) as service, client(service) as session:
            drawn = await session.call_tool(
                "generate", {"prompt": "an apple", "seed": 7, "count": 2, "settings": {"steps": 3}}
            )
            first, second, _ = drawn.content
            assert first.mime_type == second.mime_type == "image/png"
            with Image.open(io.BytesIO(base64.b64decode(first.data))) as image:
                assert image.getpixel((0, 0)) == (7, 49, 343 % 251)
            named = told(drawn)["pictures"]
            assert [one["seed"] for one in named] == [7, 8]
            edited = await session.call_tool(
                "edit", {"picture": named[0]["id"], "prompt": "a pear", "strength": 0.5}
            )
            assert len(told(edited)["pictures"]) == 1
            request = service.jobs(LOCAL)[0].request
            assert request.source is not None and request.source.strength == 0.5
            assert request.source.picture == named[0]["id"]

    run(asks)


def test_a_picture_may_come_as_base64_with_a_mask(tmp_path: Path) -> None:
    async def asks() -> None:
        async with serving(tmp_path) as service, client(service) as session:
            given = {"picture": png(), "mask": f"data:image/png;base64,{png()}", "prompt": "a"}
            told(await session.call_tool("edit", given))
            request = service.jobs(LOCAL)[0].request
            assert request.mask is not None and request.mask.picture is not None
            assert len(request.mask.picture) == 64

    run(asks)


@pytest.mark.parametrize(
    ("tool", "given", "what"),
    [
        ("generate", {"prompt": "a", "settings": {"steps": 0}}, "steps"),
        ("generate", {"prompt": "a", "model": "nobody"}, "nobody"),
        ("generate", {"prompt": "a", "count": 99}, "count"),
        ("edit", {"picture": "/etc/passwd", "prompt": "a"}, "picture"),
        ("edit", {"picture": "0" * 16, "prompt": "a"}, "picture"),
        ("score", {"pictures": ["../x"], "texts": ["a"]}, "picture"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_drawn(
    tool: str, given: dict[str, object], what: str, tmp_path: Path
) -> None:
    painter = FakePainter()

    async def asks() -> None:
        async with serving(tmp_path, painter) as service, client(service) as session:
            result = await session.call_tool(tool, given)
            assert result.is_error and what in result.content[0].text
            assert str(tmp_path) not in result.content[0].text
            assert not painter.turns

    run(asks)


def test_unknown_settings_are_told(tmp_path: Path) -> None:
    async def asks() -> None:
        async with serving(tmp_path) as service, client(service) as session:
            drawn = await session.call_tool(
                "generate", {"prompt": "a", "settings": {"colour": "red"}}
            )
            assert "colour" in str(told(drawn)["warnings"])

    run(asks)
