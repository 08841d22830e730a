"""Whoever guesses keys has to wait, and nobody else has."""

import asyncio
from pathlib import Path

import httpx
import pytest

from safelight.server import wrong_keys
from safelight.server.app import create_app
from safelight.server.refusals import TooMany
from safelight.server.settings import Key
from safelight.server.wrong_keys import SECONDS, WRONG, WrongKeys, source_of
from server_fake import run, settings
from server_http import client_of
from tables import each

KEYS = (Key("ann", "secret-of-ann"),)
RIGHT = {"Authorization": "Bearer secret-of-ann"}


class Clock:
    """The time that wrong keys are told by."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(wrong_keys, "time", own)
    return own


async def session(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.post("/api/session", json={"key": key})


def test_after_some_wrong_keys_an_address_waits_and_then_the_right_one_is_heard(
    tmp_path: Path, time: Clock
) -> None:
    app = create_app(settings(tmp_path, keys=KEYS))

    async def work() -> None:
        async with client_of(app, address="10.0.0.5") as client:
            for number in range(WRONG):
                time.now += 1
                assert (await session(client, f"guess-{number}")).status_code == 401
            for key in ("guess-x", "secret-of-ann"):
                answer = await session(client, key)
                assert answer.status_code == 429 and "set-cookie" not in answer.headers
                assert answer.json()["error"]["kind"] == "too_many"
                assert 1 <= int(answer.headers["retry-after"]) <= SECONDS
            time.now += int(answer.headers["retry-after"])
            assert (await session(client, "secret-of-ann")).status_code == 200

    run(work)


@pytest.mark.parametrize("path", ["/api/limits", "/sdapi/v1/options", "/v1/models"])
@pytest.mark.parametrize("header", ["Bearer {}", "x-api-key", "Basic"])
def test_keys_in_headers_are_counted_too_whatever_is_asked(
    tmp_path: Path, path: str, header: str
) -> None:
    app = create_app(settings(tmp_path, keys=KEYS))

    def with_key(key: str) -> dict[str, str]:
        if header == "Basic":
            return {"Authorization": httpx.BasicAuth("any", key)._auth_header}
        return {"x-api-key": key} if header == "x-api-key" else {"Authorization": f"Bearer {key}"}

    async def work() -> None:
        async with client_of(app) as client:
            for number in range(WRONG):
                answer = await client.get(path, headers=with_key(f"guess-{number}"))
                assert answer.status_code == 401
            answer = await client.get(path, headers=with_key("secret-of-ann"))
            assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 1
            # nor does anything that needs no key tell whether the key is right
            for open_ in ("/health", "/api/session"):
                answer = await client.get(open_, headers=with_key("secret-of-ann"))
                assert answer.status_code == 200
            assert answer.json() == {"needed": True, "known": False, "owner": None}

    run(work)


def test_other_addresses_and_open_sessions_do_not_wait(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path, keys=KEYS))

    async def work() -> None:
        async with client_of(app, address="10.0.0.5") as own:
            assert (await session(own, "secret-of-ann")).status_code == 200  # and has the cookie
            async with client_of(app, address="10.0.0.5") as guessing:
                for number in range(WRONG + 1):
                    answer = await session(guessing, f"guess-{number}")
                assert answer.status_code == 429
            assert (await own.get("/api/limits")).status_code == 200
        async with client_of(app, address="10.0.0.6", **RIGHT) as other:
            assert (await other.get("/api/limits")).status_code == 200

    run(work)


def test_a_client_with_an_old_key_locks_nobody_out(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path, keys=KEYS))

    async def work() -> None:
        async with client_of(app) as client:
            old = {"Authorization": "Bearer the-key-of-last-year"}
            for _ in range(3 * WRONG):
                assert (await client.get("/api/limits", headers=old)).status_code == 401
            assert (await client.get("/api/limits")).status_code == 401  # no key is no wrong key
            assert (await client.get("/api/limits", headers=RIGHT)).status_code == 200

    run(work)


def test_who_waits_is_not_made_to_wait_longer_by_asking(time: Clock) -> None:
    wrong = WrongKeys()
    for number in range(WRONG):
        wrong.add("10.0.0.5", str(number))
    for _ in range(100):
        with pytest.raises(TooMany) as refused:
            wrong.check("10.0.0.5")
    assert refused.value.retry_after == SECONDS
    time.now += SECONDS
    wrong.check("10.0.0.5")
    assert not wrong._tries  # nothing of it is kept


def test_as_many_addresses_as_one_likes_take_bounded_memory(
    time: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrong_keys, "ADDRESSES", 50)
    wrong = WrongKeys()
    for number in range(500):
        wrong.add(f"10.0.{number // 250}.{number % 250}", "guess")
    assert len(wrong._tries) == 50
    for number in range(10 * WRONG):
        wrong.add("10.1.0.1", f"guess-{number}")
    assert len(wrong._tries) == 50 and "10.1.0.1" in wrong._tries


@each(
    {
        "10.0.0.5": "10.0.0.5",
        "::ffff:10.0.0.5": "10.0.0.5",
        "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
        "2001:db8:1:2:ffff::1": "2001:db8:1:2::/64",
        "fe80::1%eth0": "fe80::/64",
        "local": "local",
    }
)
def test_an_address_stands_for_a_host(given: str, expected: str) -> None:
    assert source_of(given) == expected


def test_guesses_that_come_at_the_same_time_are_counted_as_well(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path, keys=KEYS))

    async def work() -> None:
        async with client_of(app) as client:
            answers = await asyncio.gather(*(session(client, f"guess-{n}") for n in range(50)))
            codes = [answer.status_code for answer in answers]
            assert codes.count(401) == WRONG and codes.count(429) == 50 - WRONG

    run(work)
