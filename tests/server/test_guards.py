"""What is kept out: foreign pages and hosts, missing keys, wrong bodies; and how refusals look."""

import asyncio
import base64
import io
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from safelight.errors import RequestError
from safelight.server.app import create_app
from safelight.server.jobs import Owner
from safelight.server.keys import Keys
from safelight.server.logs import JsonLines, log
from safelight.server.refusals import NotAllowed, TooMany
from safelight.server.service import Service
from safelight.server.settings import Key, ServerSettings
from server_fake import FakePainter, run, settings
from server_http import BASE, client_of

KEYS = (Key("ann", "secret-of-ann"), Key("bob", "secret-of-bob"))
JSON = {"Content-Type": "application/json"}


def app_of(out: Path, **changes: object) -> FastAPI:
    own = settings(out, **changes)
    return create_app(own, service=Service(own, painter=FakePainter()))


def status_of(
    app: FastAPI, method: str, path: str, *, address: str = "127.0.0.1", **request: object
) -> httpx.Response:
    """The answer of an application whose service is not started: guards answer before."""

    async def work() -> httpx.Response:
        async with client_of(app, address=address) as client:
            return await client.request(method, path, **request)  # type: ignore[arg-type]

    return run(work)


# -- where it listens ------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9"])
def test_on_this_machine_no_key_is_needed(tmp_path: Path, host: str) -> None:
    assert settings(tmp_path, host=host).is_local


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_beyond_this_machine_a_key_or_a_word_is_needed(tmp_path: Path, host: str) -> None:
    with pytest.raises(RequestError, match="give --api-key, or --insecure"):
        settings(tmp_path, host=host)
    assert settings(tmp_path, host=host, keys=KEYS).keys == KEYS
    assert settings(tmp_path, host=host, insecure=True).insecure


def test_a_key_that_is_too_short_or_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="at least 8 characters"):
        settings(tmp_path, keys=(Key("a", "short"),))
    with pytest.raises(RequestError, match="same name"):
        settings(tmp_path, keys=(Key("a", "x" * 9), Key("a", "y" * 9)))
    assert "secret-of-ann" not in repr(settings(tmp_path, keys=KEYS))


# -- hosts and origins -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7860", 200),
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("[::1]:7860", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("10.0.0.7:7860", 421),
        ("localhost.evil.example", 421),
        ("user@localhost@evil", 421),
        ("[", 421),
        ("pictures.example", 200),
    ],
)
def test_only_our_own_names_are_answered(tmp_path: Path, host: str, status: int) -> None:
    app = app_of(tmp_path, hosts=("Pictures.example",))
    assert status_of(app, "GET", "/health", headers={"Host": host}).status_code == status


def test_a_server_for_others_goes_by_any_address_and_by_no_foreign_name(tmp_path: Path) -> None:
    app = app_of(tmp_path, host="0.0.0.0", insecure=True)
    for host, status in (("192.168.1.7:7860", 200), ("[fe80::1]", 200), ("evil.example", 421)):
        assert status_of(app, "GET", "/health", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "http://127.0.0.1:7860.evil.example"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_pages_of_other_sites_change_nothing_and_hear_no_events(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    app = app_of(tmp_path)
    for method, path in (("POST", "/api/jobs"), ("DELETE", "/api/jobs/x"), ("POST", "/none")):
        answer = status_of(app, method, path, headers=headers | JSON, content=b"{}")
        assert answer.status_code == 403, answer.text
    stream = headers | {"Accept": "text/event-stream"}
    assert status_of(app, "GET", "/api/jobs/x/events", headers=stream).status_code == 403


def test_our_own_page_and_allowed_ones_may_ask(tmp_path: Path) -> None:
    app = app_of(tmp_path, origins=("https://studio.example/",))
    for origin in (BASE, "https://studio.example", "https://127.0.0.1:7860"):
        answer = status_of(
            app, "POST", "/api/jobs", headers={"Origin": origin} | JSON, content=b'{"prompt": "x"}'
        )
        assert answer.status_code == 503  # the service is not started: it came through


def test_no_answer_lets_other_pages_read_it(tmp_path: Path) -> None:
    app = app_of(tmp_path, origins=("https://studio.example",))
    for method in ("GET", "OPTIONS"):
        answer = status_of(app, method, "/health", headers={"Origin": "http://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_carries_the_headers_that_bind_browsers(tmp_path: Path) -> None:
    app = app_of(tmp_path)
    for path in ("/health", "/none", "/api/jobs/x", "/openapi.json"):
        answer = status_of(app, "GET", path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "script-src" not in policy
        assert "frame-ancestors 'none'" in policy and "http:" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert (answer.headers.get("cache-control") == "no-store") is (
            path in ("/api/jobs/x", "/openapi.json")
        )


# -- bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "media",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""],
)
def test_what_a_foreign_form_can_send_is_no_json(tmp_path: Path, media: str) -> None:
    app = app_of(tmp_path)
    headers = {"Content-Type": media} if media else {}
    for path in ("/api/jobs", "/api/prompt", "/api/model", "/sdapi/v1/txt2img"):
        answer = status_of(app, "POST", path, headers=headers, content=b'{"prompt": "x"}')
        assert answer.status_code == 415, (path, answer.text)


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    from safelight.server.limits import Limits

    app = app_of(tmp_path, limits=Limits(body_bytes=1000))
    read = 0

    async def slices() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 100
            yield b"x" * 100

    answer = status_of(app, "POST", "/api/jobs", headers=JSON, content=b"x" * 1001)
    assert answer.status_code == 413 and "1000" in answer.text
    answer = status_of(app, "POST", "/api/jobs", headers=JSON, content=slices())
    assert answer.status_code == 413


def test_a_packed_body_is_refused(tmp_path: Path) -> None:
    headers = JSON | {"Content-Encoding": "gzip"}
    answer = status_of(app_of(tmp_path), "POST", "/api/jobs", headers=headers, content=b"{}")
    assert answer.status_code == 415


def test_a_body_that_does_not_come_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safelight.server.guards.BODY_SECONDS", 0.05)

    async def stalling() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    app = app_of(tmp_path)
    answer = status_of(app, "POST", "/api/jobs", headers=JSON, content=stalling())
    assert answer.status_code == 408


# -- keys ------------------------------------------------------------------------------------------


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("headers", "owner"),
    [
        ({"authorization": "Bearer secret-of-ann"}, "ann"),
        ({"authorization": "bearer secret-of-bob"}, "bob"),
        ({"authorization": basic("anybody:secret-of-ann")}, "ann"),
        ({"x-api-key": "secret-of-bob"}, "bob"),
        ({}, None),
        ({"authorization": "Bearer secret-of-an"}, None),
        ({"authorization": "Bearer ann"}, None),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "Basic !!!"}, None),
        ({"authorization": basic("secret-of-ann:")}, None),
        ({"x-api-key": "secret-of-ännä"}, None),
        ({"cookie": "safelight=made-up"}, None),
        ({"cookie": '"\\;;;='}, None),
    ],
)
def test_a_key_is_known_in_every_place_where_clients_put_it(
    headers: dict[str, str], owner: str | None
) -> None:
    found = Keys(KEYS).owner_of(headers, "10.0.0.5")
    assert found == (None if owner is None else Owner(owner, sees_all=False))


def test_without_the_key_everything_but_the_page_and_health_is_closed(tmp_path: Path) -> None:
    app = app_of(tmp_path, keys=KEYS)
    closed = ["/api/jobs", "/api/gallery", "/api/models", "/metrics", "/openapi.json"]
    closed += ["/sdapi/v1/options", "/v1/models", "/api/pictures/x", "/controlnet/version"]
    for path in closed:
        answer = status_of(app, "GET", path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"].split()[0] in ("Bearer", "Basic")
        assert "secret" not in answer.text
    for path in ("/health", "/api/session"):
        assert status_of(app, "GET", path).status_code == 200
    assert status_of(app, "POST", "/", headers=JSON, content=b"{}").status_code == 401


def test_the_page_opens_a_session_that_scripts_cannot_read(tmp_path: Path) -> None:
    app = app_of(tmp_path, keys=KEYS)

    async def work() -> None:
        async with client_of(app) as client:
            assert (await client.get("/api/session")).json()["known"] is False
            wrong = await client.post("/api/session", json={"key": "secret-of-eve"})
            assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
            right = await client.post("/api/session", json={"key": "secret-of-ann"})
            cookie = right.headers["set-cookie"].lower()
            assert "httponly" in cookie and "samesite=strict" in cookie
            assert "secret" not in cookie
            assert (await client.get("/api/session")).json()["owner"] == "ann"
            assert (await client.get("/api/limits")).status_code == 200
            await client.delete("/api/session")
            assert (await client.get("/api/limits")).status_code == 401

    run(work)


def test_a_session_ends_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, now = Keys(KEYS), 100.0
    monkeypatch.setattr("safelight.server.keys.time.monotonic", lambda: now)
    token = keys.opened(Owner("ann", sees_all=False))
    assert keys.owner_of({"cookie": f"safelight={token}"}, "10.0.0.5") is not None
    now += 31 * 86400
    assert keys.owner_of({"cookie": f"safelight={token}"}, "10.0.0.5") is None


def test_owners_are_keys_or_else_addresses(tmp_path: Path) -> None:
    async def owner(app: FastAPI, address: str, **headers: str) -> str:
        async with client_of(app, address=address, **headers) as client:
            found: str = (await client.get("/api/session")).json()["owner"]
            return found

    open_ = app_of(tmp_path, host="0.0.0.0", insecure=True)
    assert run(lambda: owner(open_, "10.0.0.5")) == "10.0.0.5"
    assert run(lambda: owner(open_, "127.0.0.1")) == "local"
    keyed = app_of(tmp_path, keys=KEYS)
    told = {"Authorization": "Bearer secret-of-bob"}
    assert run(lambda: owner(keyed, "10.0.0.5", **told)) == "bob"


# -- faults of our own -----------------------------------------------------------------------------


@pytest.fixture
def logged() -> io.StringIO:
    """What is written to the log."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    log.addHandler(handler)
    yield stream
    log.removeHandler(handler)


def test_a_fault_of_ours_is_an_id_that_is_in_the_log_and_nothing_more(
    tmp_path: Path, logged: io.StringIO
) -> None:
    app = app_of(tmp_path)

    @app.get("/breaks")
    async def breaks() -> None:
        raise ZeroDivisionError("a secret in /home/me")

    answer = status_of(app, "GET", "/breaks")
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["kind"] == "internal" and "secret" not in answer.text
    (entry,) = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert entry["id"] == error["id"] and "ZeroDivisionError" in entry["trace"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotAllowed("no /home/me/x.pt here"), 422),
        (TooMany("later", retry_after=2.2), 429),
        (RequestError("steps must be more"), 422),
        (MemoryError(), 507),
        (RecursionError(), 422),
    ],
)
def test_every_kind_of_error_has_its_status(tmp_path: Path, error: Exception, status: int) -> None:
    app = app_of(tmp_path)

    @app.get("/api/raises")
    async def raises() -> None:
        raise error

    answer = status_of(app, "GET", "/api/raises")
    assert answer.status_code == status and "/home" not in answer.text
    if status == 429:
        assert answer.headers["retry-after"] == "3"


def test_an_api_may_have_a_shape_of_its_own_for_errors(tmp_path: Path) -> None:
    app = app_of(tmp_path)
    app.state.shapes["/v9"] = lambda problem: {"oops": problem.message}
    assert list(status_of(app, "GET", "/v9/none").json()) == ["oops"]
    assert list(status_of(app, "GET", "/v8/none").json()) == ["error", "detail"]


def test_values_that_were_sent_are_not_repeated(tmp_path: Path) -> None:
    answer = status_of(app_of(tmp_path), "GET", "/api/jobs?limit=secret-value")
    assert answer.status_code == 422
    assert "limit" in answer.text and "secret-value" not in answer.text


def test_the_log_is_one_line_of_plain_characters_an_entry(logged: io.StringIO) -> None:
    log.error("evil\nname \x1b[31m", extra={"file": "ü\r\n\x1b]0;x\x07.pt", "id": "1"})
    text = logged.getvalue()
    assert text.count("\n") == 1 and text.isascii() and "\x1b" not in text
    assert json.loads(text)["file"] == "ü\r\n\x1b]0;x\x07.pt"


def test_prompts_are_logged_only_if_the_owner_wants_it(tmp_path: Path, logged: io.StringIO) -> None:
    from safelight.server.jobs import LOCAL
    from safelight.tasks.request import Request
    from server_fake import serving

    async def work(**changes: object) -> None:
        async with serving(tmp_path, FakePainter(), **changes) as service:
            from safelight.server.registry import Listed, Registry

            service.registry = Registry([Listed("plain", tmp_path / "p.pt", "model")])
            job = await service.submit(Request(prompt="my secret wish", model="plain"), LOCAL)
            await service.finished(job.id, LOCAL)

    log.setLevel("INFO")
    run(work)
    assert "job accepted" in logged.getvalue() and "secret" not in logged.getvalue()
    run(lambda: work(log_prompts=True))
    assert "my secret wish" in logged.getvalue()


def test_settings_say_what_cannot_be(tmp_path: Path) -> None:
    for changes in ({"batch": 0}, {"grace": -1.0}, {"grace": float("nan")}, {"preview_every": -1}):
        with pytest.raises(RequestError):
            ServerSettings(out=tmp_path, **changes)  # type: ignore[arg-type]
