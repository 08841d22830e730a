"""Bodies that are no JSON, too deep, too long, packed, doubled, or forms made to break a parser."""

import base64
import contextlib
import gzip
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from safelight.server.limits import Limits
from server_hostile import DRAWN, JOBS, TXT2IMG, Attack, Target, attacked, png, table

pytestmark = pytest.mark.slow

MOST = 2**20
EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Target]:
    limits = Limits(body_bytes=MOST, picture_bytes=MOST // 2)
    with attacked(tmp_path_factory.mktemp("bodies"), models, limits=limits) as found:
        yield found


DEPTH = 200_000
JSON: dict[str, bytes] = {
    "lists": b"[" * DEPTH + b"]" * DEPTH,
    "open-lists": b"[" * DEPTH,
    "objects": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "deep-field": b'{"prompt": "a", "x": ' + b"[" * 500 + b"]" * 500 + b"}",
    "deep-known": b'{"prompt": "a", "guidance": ' + b'{"a":' * 100 + b"1" + b"}" * 101,
    "list": b"[]",
    "text": b'"prompt"',
    "number": b"7",
    "null": b"null",
    "true": b"true",
    "no-json": b"prompt=a",
    "half": b'{"prompt": "a"',
    "two": b'{"prompt": "a"}{"prompt": "b"}',
    "comment": b'{"prompt": "a" /* evil */}',
    "single-quotes": b"{'prompt': 'a'}",
    "trailing-comma": b'{"prompt": "a",}',
    "latin-1": b'{"prompt": "\xe9\xff"}',
    "overlong-utf-8": b'{"prompt": "\xc0\xaf"}',
    "raw-control": b'{"prompt": "a\x00b"}',
    "escape": b'{"prompt": "\\x41"}',
    "html": b"<!DOCTYPE html>",
    "xml": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
    "yaml": b"!!python/object/apply:os.system ['touch marker']",
    "pickle": b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
    "long-number": b'{"seed": ' + b"9" * 100_000 + b"}",
    "long-fraction": b'{"cfg_scale": 0.' + b"0" * 500_000 + b"e99999999}",
    "exponent": b'{"cfg_scale": 1e99999999999}',
    "zeros": bytes(1000),
}


@table(
    *(
        Attack(f"{door}-{label}", path, body)
        for label, body in JSON.items()
        for door, path in (
            ("native", JOBS),
            ("a1111", TXT2IMG),
            ("openai", DRAWN),
            ("prompt", "/api/prompt"),
        )
        if door in ("native", "openai") or len(body) < 2000
    )
)
def test_what_is_no_sound_json_object_is_refused(target: Target, attack: Attack) -> None:
    if attack.label == "native-long-fraction":
        target.survives(attack)  # a very small number, which is one
    else:
        target.refuses(attack)


UNIT = {"model": "embedded-edges", "image": png()}
PLENTY: dict[str, tuple[str, object]] = {
    "fields": (JOBS, {"prompt": "a"} | {f"k{n}": n for n in range(50_000)}),
    "options": ("/sdapi/v1/options", {f"k{n}": n for n in range(50_000)}),
    "overrides": (TXT2IMG, {"override_settings": {f"k{n}": 1 for n in range(50_000)}}),
    "scripts": (TXT2IMG, {"alwayson_scripts": {f"k{n}": {} for n in range(50_000)}}),
    "units": (TXT2IMG, {"alwayson_scripts": {"controlnet": {"args": [{}] * 50_000}}}),
    "some-units": (TXT2IMG, {"alwayson_scripts": {"controlnet": {"args": [UNIT] * 17}}}),
    "styles": (TXT2IMG, {"styles": ["x"] * 50_000}),
    "empty-lists": (JOBS, {"prompt": "a", "loras": [[]] * 50_000}),
    "loras": (JOBS, {"prompt": "a", "loras": [{"file": "embedded-lcm"}] * 100}),
    "pictures": ("/sdapi/v1/extra-batch-images", {"imageList": [{"data": png()}] * 101}),
    "detected": ("/controlnet/detect", {"controlnet_input_images": [png()] * 101}),
    "dots": (DRAWN, {"prompt": "a", "hires" + ".a" * 100_000: 1}),
}


@table(*(Attack(label, path, body) for label, (path, body) in PLENTY.items()))
def test_too_many_of_anything_are_refused_at_once(target: Target, attack: Attack) -> None:
    target.refuses(attack)


def test_the_refusal_of_a_list_tells_how_long_it_may_be(target: Target) -> None:
    path, body = PLENTY["loras"]
    assert "at most 32 entries; got 100" in target.refuses(Attack("", path, body)).text


def test_a_warning_names_a_few_of_many(target: Target) -> None:
    made = target.client.post(
        TXT2IMG,
        json={"prompt": "a", "steps": 1, "width": 64, "height": 64}
        | {"override_settings": {f"option{n}": 1 for n in range(2000)}},
    )
    (warning,) = made.json()["warnings"]
    assert "option0, option1" in warning and "and 1980 more" in warning


@table(
    Attack("long-key", JOBS, {"prompt": "a", "steps": 1, "A" * 500_000: 1}),
    Attack("twice", JOBS, b'{"prompt": "a", "steps": 1, "steps": 1, "prompt": "b"}'),
    Attack("prototype", JOBS, {"prompt": "a", "steps": 1, "__proto__": {"admin": True}}),
    Attack("dunder", JOBS, {"prompt": "a", "steps": 1, "__class__": "x", "model_config": {}}),
    Attack("surrogate-key", JOBS, b'{"prompt": "a", "steps": 1, "\\ud800": 1}'),
    Attack("control-key", JOBS, b'{"prompt": "a", "steps": 1, "\\u0000\\u001b[2J": 1}'),
    Attack("surrogate-option", "/sdapi/v1/options", b'{"\\udfff": "\\ud800"}'),
    Attack("marked", JOBS, b'\xef\xbb\xbf{"prompt": "a", "steps": 1}'),
    Attack("utf-16", JOBS, '{"prompt": "a", "steps": 1}'.encode("utf-16")),
)
def test_odd_objects_harm_nothing(target: Target, attack: Attack) -> None:
    target.survives(attack)


SURROGATES = b'"\\ud800"'


@table(
    *(
        Attack(f"{number}", path, body.replace(b"@", SURROGATES))
        for number, (path, body) in enumerate(
            (
                (JOBS, b'{"prompt": @}'),
                (JOBS, b'{"prompt": "a", "model": @}'),
                (JOBS, b'{"prompt": "a", "regions": [{"prompt": @}]}'),
                (JOBS, b'{"prompt": "a", "source": {"picture": @}}'),
                (TXT2IMG, b'{"prompt": "a", "sampler_name": @}'),
                (TXT2IMG, b'{"prompt": "a", "script_name": @}'),
                (TXT2IMG, b'{"prompt": "a", "steps": 1, "force_task_id": @}'),
                (TXT2IMG, b'{"prompt": "a", "steps": 1, "own": @}'),
                (TXT2IMG, b'{"prompt": "a", "alwayson_scripts": {@: {"args": [1]}}}'),
                (TXT2IMG, b'{"prompt": "a", "steps": 1, "override_settings": {@: 1}}'),
                (DRAWN, b'{"prompt": @}'),
                (DRAWN, b'{"prompt": "a", "size": @}'),
                (DRAWN, b'{"prompt": "a", "model": @}'),
                (DRAWN, b'{"prompt": "a", @: 1}'),
                ("/api/model", b'{"name": @}'),
                ("/api/session", b'{"key": @}'),
                ("/api/prompt", b'{"text": @}'),
                ("/api/prompt", b'{"text": "a", "sampler": @}'),
                ("/api/score", b'{"pictures": [@], "texts": ["a"]}'),
                ("/api/pictures", b'{"picture": @}'),
                ("/api/preprocess", b'{"picture": @}'),
                ("/controlnet/detect", b'{"controlnet_input_images": [@]}'),
                ("/sdapi/v1/options", b'{"sd_model_checkpoint": @}'),
                ("/sdapi/v1/png-info", b'{"image": @}'),
            )
        )
    )
)
def test_half_of_a_surrogate_pair_is_no_text(target: Target, attack: Attack) -> None:
    target.refuses(attack)


PACKED = {"Content-Type": "application/json"}


@table(
    *(
        Attack(f"{coding}-{number}", path, body, headers=PACKED | {"Content-Encoding": coding})
        for number, path in enumerate((JOBS, TXT2IMG, DRAWN))
        for coding, body in (
            ("gzip", gzip.compress(bytes(10**7))),
            ("deflate", zlib.compress(bytes(10**7))),
            ("br", b"\x0b\x02\x80"),
            ("gzip, gzip", gzip.compress(gzip.compress(bytes(10**7)))),
            ("GZIP", gzip.compress(b"{}")),
            ("x-evil", b"{}"),
        )
    ),
    *(
        Attack(f"{kind}-{number}", path, b'{"prompt": "a"}', headers={"Content-Type": kind})
        for number, path in enumerate((JOBS, TXT2IMG, DRAWN, "/api/model"))
        for kind in (
            "text/plain",
            "text/plain; application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json-evil",
            "application/xml",
            "application/x-pickle",
            "a" * 5000,
            "\xff",
        )
    ),
    Attack("long", JOBS, b" " * (MOST + 1)),
    Attack("long-a1111", TXT2IMG, json.dumps({"prompt": "a", "x": "A" * MOST}).encode()),
    Attack("long-openai", DRAWN, b"[" * (2 * MOST)),
    Attack("long-picture", "/api/pictures", {"picture": "A" * (MOST * 3 // 4)}),
    Attack(
        "long-raw", "/api/pictures", bytes(MOST // 2 + 1), headers={"Content-Type": "image/png"}
    ),
)
def test_bodies_that_are_packed_of_another_kind_or_too_long_are_refused(
    target: Target, attack: Attack
) -> None:
    assert target.refuses(attack).status_code in (413, 415)


def part(name: str, body: bytes, more: str = "", *, edge: str = "x") -> bytes:
    head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + body + b"\r\n"


def form(*parts: bytes, edge: str = "x") -> bytes:
    return b"".join(parts) + f"--{edge}--\r\n".encode()


FILE = '; filename="a.png"\r\nContent-Type: image/png'
PNG = base64.b64decode(png())
SOUND = form(part("image", PNG, FILE), part("prompt", b"a"), part("steps", b"1"))
FORMS: dict[str, tuple[str, bytes]] = {
    "no-edge": ("multipart/form-data", SOUND),
    "empty-edge": ("multipart/form-data; boundary=", SOUND),
    "other-edge": ("multipart/form-data; boundary=y", SOUND),
    "long-edge": ("multipart/form-data; boundary=" + "A" * 5000, SOUND),
    "quoted-edge": ('multipart/form-data; boundary="', SOUND),
    "edge-bytes": ("multipart/form-data; boundary=\xff\xfe", SOUND),
    "many-parameters": ("multipart/form-data" + "; a=b" * 2000, SOUND),
    "empty": ("multipart/form-data; boundary=x", b""),
    "no-parts": ("multipart/form-data; boundary=x", form()),
    "half": ("multipart/form-data; boundary=x", SOUND[:-40]),
    "no-image": ("multipart/form-data; boundary=x", form(part("prompt", b"a"))),
    "two-images": (
        "multipart/form-data; boundary=x",
        form(part("image", PNG, FILE), part("image", PNG, FILE), part("prompt", b"a")),
    ),
    "many-files": (
        "multipart/form-data; boundary=x",
        form(*(part("image", PNG, FILE) for _ in range(200)), part("prompt", b"a")),
    ),
    "many-fields": (
        "multipart/form-data; boundary=x",
        form(part("image", PNG, FILE), *(part(f"k{n}", b"1") for n in range(2000))),
    ),
    "long-field": (
        "multipart/form-data; boundary=x",
        form(part("image", PNG, FILE), part("prompt", b"A" * 900_000)),
    ),
    "long-name": (
        "multipart/form-data; boundary=x",
        form(part("A" * 20_000, b"1"), part("image", PNG, FILE)),
    ),
    "no-disposition": ("multipart/form-data; boundary=x", b"--x\r\n\r\nevil\r\n--x--\r\n"),
    "no-name": (
        "multipart/form-data; boundary=x",
        b"--x\r\nContent-Disposition: form-data\r\n\r\nevil\r\n--x--\r\n",
    ),
    "path-name": (
        "multipart/form-data; boundary=x",
        form(part("image", b"evil", '; filename="../../../etc/passwd"'), part("prompt", b"a")),
    ),
    "image-path": (
        "multipart/form-data; boundary=x",
        form(part("image", b"/etc/passwd"), part("prompt", b"a")),
    ),
    "image-address": (
        "multipart/form-data; boundary=x",
        form(part("image", b"http://127.0.0.1/x.png"), part("prompt", b"a")),
    ),
    "svg": (
        "multipart/form-data; boundary=x",
        form(part("image", b"<svg/>", '; filename="a.svg"\r\nContent-Type: image/svg+xml')),
    ),
    "transfer-encoding": (
        "multipart/form-data; boundary=x",
        form(part("image", b"evil", FILE + "\r\nContent-Transfer-Encoding: base64")),
    ),
    "charset": (
        "multipart/form-data; boundary=x",
        form(part("_charset_", b"utf-7"), part("image", b"+ADw-", FILE)),
    ),
    **{
        f"charset-{codec}": (f"multipart/form-data; boundary=x; charset={codec}", SOUND)
        for codec in ("idna", "undefined", "unicode_escape", "utf-7", "punycode", "made-up")
    },
    "null-bytes": ("multipart/form-data; boundary=x", bytes(10_000)),
    "json": ("application/json", b'{"prompt": "a", "image": "x"}'),
    "packed-fields": (
        "multipart/form-data; boundary=x",
        form(part("image", PNG, FILE), part("prompt", b"a"), part("guidance", b"[" * 100_000)),
    ),
    "nan-field": (
        "multipart/form-data; boundary=x",
        form(part("image", PNG, FILE), part("prompt", b"a"), part("cfg_scale", b"NaN")),
    ),
    "dotted-field": (
        "multipart/form-data; boundary=x",
        form(part("image", PNG, FILE), part("prompt", b"a"), part("steps" + ".a" * 5000, b"1")),
    ),
}


@table(
    *(
        Attack(f"{path.rpartition('/')[2]}-{label}", path, body, headers={"Content-Type": kind})
        for label, (kind, body) in FORMS.items()
        for path in (EDITS, VARIATIONS, "/api/pictures", "/api/inspect")
        if path == EDITS or label in ("no-edge", "half", "no-image", "no-parts", "svg", "charset")
    )
)
def test_a_broken_form_is_refused(target: Target, attack: Attack) -> None:
    target.refuses(attack)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("path", [JOBS, "/api/refresh", "/none", "/assets/x"])
def test_of_200_megabytes_little_is_read(target: Target, path: str, declared: bool) -> None:
    """The server hangs up on what it does not want, be it refused or of no use where it is sent."""
    sent = 0

    def slices() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(200):
            sent += 1
            yield b" " * 2**20

    headers = {"Content-Type": "application/json"}
    if declared:
        headers["Content-Length"] = str(200 * 2**20)
    # what was written when the connection ended: the answer may be lost with it
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):
        answer = target.client.post(path, headers=headers, content=slices())
        assert answer.status_code == 413 or (path != JOBS and answer.status_code < 500)
    assert sent < 50
    target.is_well(draws=True)


def test_who_sends_a_little_too_much_is_told_so(target: Target) -> None:
    """Though the answer comes before all is sent, it is found by those who read it after."""

    def slices() -> Iterator[bytes]:
        for _ in range(3):
            yield b" " * (MOST // 2)
            time.sleep(0.1)

    headers = {"Content-Type": "application/json", "Content-Length": str(3 * (MOST // 2))}
    answer = target.client.post(JOBS, headers=headers, content=slices())
    assert answer.status_code == 413 and answer.headers["connection"] == "close"
    target.is_well(draws=True)
