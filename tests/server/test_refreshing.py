"""Lists that many want anew at the same time are made once or twice, one after the other."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from safelight.server import service as room
from safelight.server.merging import Merged
from safelight.server.registry import Listed, Registry
from server_fake import run
from server_http import http


class Shelves:
    """What lists files, held until it is let go; how often, and how many at the same time."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.go.set()
        self.times = self.now = self.most = 0
        self.names = ["plain"]
        self._lock = threading.Lock()

    def __call__(self, folders: Sequence[Path] = (), model: Path | None = None) -> Registry:
        with self._lock:
            self.times, self.now = self.times + 1, self.now + 1
            self.most = max(self.most, self.now)
            names = list(self.names)
        self.begun.set()
        assert self.go.wait(10)
        with self._lock:
            self.now -= 1
        return Registry([Listed(name, Path(f"{name}.safetensors"), "model") for name in names])


@pytest.mark.parametrize(
    "paths",
    [
        ["POST /api/refresh"],
        ["POST /sdapi/v1/refresh-checkpoints", "POST /sdapi/v1/refresh-loras"],
        ["POST /api/refresh", "GET /controlnet/model_list?update=true"],
    ],
)
def test_a_flood_of_refreshes_is_one_that_runs_and_one_that_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str]
) -> None:
    shelves = Shelves()
    monkeypatch.setattr(room, "listed", shelves)

    async def work() -> None:
        async with http(tmp_path) as (client, service):
            shelves.times, shelves.most = 0, 0
            shelves.go.clear()
            shelves.begun.clear()
            asked = [paths[n % len(paths)].split(" ") for n in range(60)]
            calls = [asyncio.create_task(client.request(*one)) for one in asked]
            await asyncio.to_thread(shelves.begun.wait, 10)
            await asyncio.sleep(0.05)
            assert not any(call.done() for call in calls)
            assert (await client.get("/health")).status_code == 200  # it serves meanwhile
            shelves.names.append("new")
            shelves.go.set()
            answers = await asyncio.gather(*calls)
            assert {answer.status_code for answer in answers} == {200}
            assert 1 <= shelves.times <= 2 and shelves.most == 1
            assert service.registry.has("model", "new")

    run(work)


def test_who_asks_while_it_is_done_gets_what_is_begun_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelves = Shelves()
    monkeypatch.setattr(room, "listed", shelves)

    async def work() -> None:
        async with http(tmp_path) as (client, _):
            shelves.go.clear()
            shelves.begun.clear()
            first = asyncio.create_task(client.post("/api/refresh"))
            await asyncio.to_thread(shelves.begun.wait, 10)
            shelves.names.append("new")
            second = asyncio.create_task(client.post("/api/refresh"))
            await asyncio.sleep(0.05)
            shelves.go.set()
            assert (await first).json()["models"] == 1
            assert (await second).json()["models"] == 2

    run(work)


def test_work_that_fails_is_told_to_those_who_waited_for_it_and_done_again() -> None:
    async def work() -> None:
        times, go = 0, asyncio.Event()

        async def failing() -> None:
            nonlocal times
            times += 1
            mine = times
            await go.wait()
            if mine == 1:
                raise OSError("the first")

        merged = Merged(failing)
        calls = [asyncio.create_task(merged.done()) for _ in range(2)]
        await asyncio.sleep(0)
        calls += [asyncio.create_task(merged.done()) for _ in range(5)]
        left = asyncio.create_task(merged.done())
        await asyncio.sleep(0.01)
        left.cancel()  # one that goes takes nobody's with it
        go.set()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(ends[0], OSError) and ends[1:] == [None] * 6
        assert times == 2
        await merged.done()
        assert times == 3

    run(work)
