"""What a page of another site can make a browser send, and what a browser could be led to run."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from server_hostile import JOBS, TXT2IMG, Attack, Target, attacked, picture, png, table


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("browsers"), models) as found:
        yield found


BODY = b'{"prompt": "a", "steps": 1}'
CHANGES: Mapping[str, tuple[str, str]] = {  # all that changes something
    "draw": ("POST", JOBS),
    "a1111": ("POST", TXT2IMG),
    "openai": ("POST", "/v1/images/generations"),
    "upload": ("POST", "/api/pictures"),
    "model": ("POST", "/api/model"),
    "options": ("POST", "/sdapi/v1/options"),
    "interrupt": ("POST", "/sdapi/v1/interrupt"),
    "refresh": ("POST", "/api/refresh"),
    "cancel": ("DELETE", "/api/jobs/x"),
    "delete": ("DELETE", "/api/pictures/x"),
    "session": ("POST", "/api/session"),
}
FOREIGN: Mapping[str, Mapping[str, str]] = {
    "origin": {"Origin": "http://evil.example"},
    "null": {"Origin": "null"},
    "other-port": {"Origin": "http://127.0.0.1:1"},
    "like-ours": {"Origin": "http://127.0.0.1.evil.example"},
    "file": {"Origin": "file://"},
    "fetch": {"Sec-Fetch-Site": "cross-site"},
}


@table(
    *(
        Attack(f"{what}-{who}", path, BODY, method, headers)
        for what, (method, path) in CHANGES.items()
        for who, headers in FOREIGN.items()
        if what == "draw" or who in ("origin", "fetch")
    )
)
def test_pages_of_other_sites_change_nothing(target: Target, attack: Attack) -> None:
    assert target.refuses(attack).status_code == 403


@table(
    *(
        Attack(host.encode().hex()[:40], JOBS, BODY, headers={"Host": host})
        for host in (
            "evil.example",
            "evil.example:7860",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "169.254.169.254",
            "127.0.0.1/evil",
            "127.0.0.1?evil",
            "127.0.0.1#evil",
            "evil@127.0.0.1",
            "127.0.0.1@evil.example",
            "127.0.0.1\\evil",
            "127.0.0.1:99999999",
            "127.0.0.1:evil",
            "[::1",
            "[::1].evil.example",
            "[127.0.0.1]",
            "127.1",
            "0x7f000001",
            "2130706433",
            "127.0.0.1, evil.example",
            "%31%32%37.0.0.1",
            "ⓛocalhost".encode().decode("latin-1"),
            "-",
        )
    )
)
def test_a_name_that_was_led_to_our_address_is_not_ours(target: Target, attack: Attack) -> None:
    """DNS rebinding: the browser sends the name that it looked up."""
    assert target.refuses(attack).status_code == 421


@table(
    *(
        Attack(f"{what}-{kind}", path, BODY, headers={"Content-Type": kind})
        for what, (method, path) in CHANGES.items()
        if method == "POST" and what not in ("interrupt", "refresh")
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "text/plain;application/json",
            "application/csp-report",
        )
    )
)
def test_what_a_form_or_a_beacon_can_send_is_no_json(target: Target, attack: Attack) -> None:
    assert target.refuses(attack).status_code == 415


PAGES = ("/", "/health", "/openapi.json", "/api/gallery", "/api/jobs", "/api/settings", "/none")


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
@pytest.mark.parametrize("path", [*PAGES, TXT2IMG, "/v1/models"])
def test_no_other_page_may_read_an_answer(target: Target, path: str, method: str) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    asked |= {"Access-Control-Request-Headers": "content-type"}
    if method == "OPTIONS":
        asked["Access-Control-Request-Private-Network"] = "true"
    answer = target.client.request(method, path, headers=asked)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"


@pytest.mark.parametrize("path", [*PAGES, TXT2IMG, "/v1/models", "/assets/none.js"])
def test_every_answer_binds_what_a_browser_may_do(target: Target, path: str) -> None:
    headers = target.client.get(path).headers
    policy = dict(
        part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'self'"
    assert policy["object-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe-eval" not in headers["content-security-policy"]
    assert "'unsafe-inline'" not in policy.get("script-src", "")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"


def test_a_prompt_of_markup_comes_back_as_data_and_never_as_a_page(target: Target) -> None:
    made = target.client.post(TXT2IMG, json={"prompt": EVIL, "steps": 1, "width": 64, "height": 64})
    assert made.headers["content-type"] == "application/json"
    found = target.client.get("/api/gallery", params={"search": "alert"})
    assert found.headers["content-type"] == "application/json"
    (kept,) = found.json()["pictures"]
    assert kept["prompt"] == EVIL
    file = target.client.get(f"/api/pictures/{kept['id']}")
    assert file.headers["content-type"] == "image/png" and file.content[:4] == b"\x89PNG"
    recipe = target.client.get(f"/api/pictures/{kept['id']}/recipe")
    assert recipe.headers["content-type"] == "application/json"
    refused = target.client.get(f"/v1/models/{EVIL.replace('/', '')}")
    assert refused.headers["content-type"] == "application/json"


@pytest.mark.parametrize("kind", ["image/svg+xml", "text/html", "image/png"])
def test_no_drawing_of_code_is_ever_kept_or_given(target: Target, kind: str) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'
    answer = target.client.post("/api/pictures", content=svg, headers={"Content-Type": kind})
    assert answer.status_code in (415, 422)


def test_a_picture_is_given_as_what_it_is_whatever_it_was_called(target: Target) -> None:
    import base64

    sent = target.client.post(
        "/api/pictures",
        content=base64.b64decode(png()) + EVIL.encode(),
        headers={"Content-Type": "image/svg+xml"},
    )
    assert sent.status_code == 201
    given = target.client.get(f"/api/pictures/{sent.json()['id']}")
    assert given.headers["content-type"] == "image/png"
    assert given.headers["x-content-type-options"] == "nosniff"


def test_addresses_in_answers_are_ours(target: Target) -> None:
    made = target.client.post(
        "/v1/images/generations",
        json={"prompt": "a", "steps": 1, "size": "64x64", "response_format": "url"},
        headers={"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"},
    )
    (data,) = made.json()["data"]
    assert data["url"].startswith(f"http://127.0.0.1:{target.port}/api/pictures/")


def test_nobody_is_let_in_by_saying_where_he_comes_from(
    tmp_path_factory: pytest.TempPathFactory, models: Path
) -> None:
    from safelight.server.settings import Key

    keys = (Key("ann", "secret-of-ann"),)
    folder = tmp_path_factory.mktemp("keyed")
    told = {"Authorization": "Bearer secret-of-ann"}
    with attacked(folder, models, headers=told, keys=keys) as keyed:
        for headers in (
            {"X-Forwarded-For": "127.0.0.1"},
            {"X-Real-IP": "127.0.0.1"},
            {"Forwarded": "for=127.0.0.1"},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer " + "A" * 5000},
            {"Authorization": "Basic " + "=" * 100},
            {"Authorization": "Digest username=ann"},
            {"Cookie": "safelight=; safelight=ann"},
            {"X-Api-Key": "secret-of-ann\t,"},
        ):
            answer = httpx.get(f"http://127.0.0.1:{keyed.port}/api/jobs", headers=headers)
            assert answer.status_code == 401, headers
            assert "secret" not in answer.text
        assert picture(keyed.client) == keyed.before
