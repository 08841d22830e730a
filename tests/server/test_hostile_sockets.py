"""What comes over a bare connection: broken heads, smuggled requests, and clients that dawdle."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server_hostile import Target, attacked

PATIENCE = 0.6  # seconds that the server waits here for a head or a body


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Target]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safelight.server.running.HEAD_SECONDS", PATIENCE)
        patch.setattr("safelight.server.guards.BODY_SECONDS", PATIENCE)
        patch.setattr("safelight.server.guards.LINGER_SECONDS", 0.2)
        with attacked(tmp_path_factory.mktemp("sockets"), models) as found:
            yield found


def said(target: Target, data: bytes, *, seconds: float = 5.0) -> bytes:
    """All that the server answers to these bytes, until it hangs up or nothing more comes."""
    with socket.create_connection(("127.0.0.1", target.port), timeout=seconds) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            heard = b""
            while more := connection.recv(65536):
                heard += more
        except ConnectionError:
            return b""
        except TimeoutError:
            pytest.fail("the server neither answered nor hung up")
    return heard


HOST = b"Host: 127.0.0.1\r\n"
JSON = b"Content-Type: application/json\r\n"
GET = b"GET /health HTTP/1.1\r\n"
POST = b"POST /api/jobs HTTP/1.1\r\n" + HOST + JSON
END = b"\r\n"
HEADS: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(2000),
    "words": b"hello\r\n\r\n",
    "newlines": b"\r\n" * 5000,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http-0.9": b"GET /health\r\n\r\n",
    "http-9": b"GET /health HTTP/9.9\r\n" + HOST + END,
    "no-version": b"GET /health HTTP/\r\n" + HOST + END,
    "no-host": GET + END,
    "two-hosts": GET + HOST + b"Host: evil.example\r\n" + END,
    "host-list": GET + b"Host: 127.0.0.1, evil.example\r\n" + END,
    "host-path": GET + b"Host: 127.0.0.1/evil\r\n" + END,
    "host-bytes": GET + b"Host: \xff\xfe\r\n" + END,
    "absolute": b"GET http://evil.example/health HTTP/1.1\r\nHost: evil.example\r\n" + END,
    "connect": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n" + END,
    "long-method": b"A" * 100_000 + b" / HTTP/1.1\r\n" + HOST + END,
    "long-path": b"GET /" + b"A" * 100_000 + b" HTTP/1.1\r\n" + HOST + END,
    "space-in-path": b"GET /health /etc/passwd HTTP/1.1\r\n" + HOST + END,
    "bytes-in-path": b"GET /\xff\xfe\x00 HTTP/1.1\r\n" + HOST + END,
    "long-header": GET + HOST + b"X: " + b"A" * 100_000 + b"\r\n" + END,
    "many-headers": GET + HOST + b"".join(b"X-%d: a\r\n" % n for n in range(10_000)) + END,
    "no-colon": GET + HOST + b"evil\r\n" + END,
    "space-before-colon": GET + b"Host : 127.0.0.1\r\n" + END,
    "folded": GET + HOST + b"X: a\r\n  evil\r\n" + END,
    "nul-in-header": GET + HOST + b"X: a\x00b\r\n" + END,
    "bare-return": GET + HOST + b"X: a\rEvil: b\r\n" + END,
    "bare-newline-name": GET + HOST + b"X\n: a\r\n" + END,
    "length-negative": POST + b"Content-Length: -1\r\n" + END,
    "length-word": POST + b"Content-Length: many\r\n" + END,
    "length-plus": POST + b"Content-Length: +2\r\n" + END + b"{}",
    "length-hex": POST + b"Content-Length: 0x2\r\n" + END + b"{}",
    "length-huge": POST + b"Content-Length: 99999999999999999999\r\n" + END + b"{}",
    "length-digits": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n" + END + b"{}",
    "two-lengths": POST + b"Content-Length: 2\r\nContent-Length: 50\r\n" + END + b"{}",
    "length-list": POST + b"Content-Length: 2, 50\r\n" + END + b"{}",
    "length-and-chunks": (
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n" + END + b"0\r\n\r\nGET /evil"
    ),
    "two-codings": POST + b"Transfer-Encoding: gzip, chunked\r\n" + END + b"0\r\n\r\n",
    "odd-coding": POST + b"Transfer-Encoding: xchunked\r\n" + END + b"0\r\n\r\n",
    "chunk-size": POST + b"Transfer-Encoding: chunked\r\n" + END + b"FFFFFFFFFFFFFFFFF\r\n{}",
    "chunk-negative": POST + b"Transfer-Encoding: chunked\r\n" + END + b"-2\r\n{}\r\n0\r\n\r\n",
    "chunk-word": POST + b"Transfer-Encoding: chunked\r\n" + END + b"evil\r\n{}\r\n0\r\n\r\n",
    "chunk-extension": (
        POST + b"Transfer-Encoding: chunked\r\n" + END + b"2;" + b"A" * 100_000 + b"\r\n{}\r\n"
    ),
    "short-body": POST + b"Content-Length: 500\r\n" + END + b"{}",
    "origin-bytes": POST + b"Origin: \xff\r\nContent-Length: 2\r\n" + END + b"{}",
    "cookie-torture": GET + HOST + b'Cookie: "\\;=;;;\x80=\xff; safelight=' + b"A" * 9000 + END * 2,
    "range-torture": GET + HOST + b"Range: bytes=" + b"0-," * 5000 + b"\r\n" + END,
    "upgrade": (
        GET + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + END
    ),
    "upgrade-h2c": GET + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + END,
    "expect": POST + b"Expect: evil\r\nContent-Length: 2\r\n" + END + b"{}",
}
HARMLESS = {  # not sound, but of a meaning that no two readers could differ on
    "newlines",
    "nothing",
    "space-in-path",
    "folded",
    "cookie-torture",
    "range-torture",
    "upgrade",
    "upgrade-h2c",
    "http-9",
    "chunk-extension",
}


@pytest.mark.parametrize("label", HEADS)
def test_a_broken_request_ends_with_its_connection(target: Target, label: str) -> None:
    began = time.monotonic()
    heard = said(target, HEADS[label])
    assert time.monotonic() - began < 4
    target.told_nothing(400, heard.decode("latin-1"))
    statuses = [int(line.split()[1]) for line in heard.split(b"\r\n") if line[:5] == b"HTTP/"]
    assert len(statuses) <= 1, "one request, and no other in its body"
    if label not in HARMLESS:
        assert all(400 <= status < 500 for status in statuses), heard[:300]
    assert all(status < 500 for status in statuses)
    assert len(heard) < 4000
    target.is_well(draws=label in ("zeros", "expect"))


def test_a_head_that_comes_by_drops_is_cut_off(target: Target) -> None:
    def drop() -> None:
        for byte in GET + HOST + b"X: " + b"a" * 1000:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    began = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", target.port), timeout=10) as connection,
        pytest.raises(ConnectionError),
    ):
        drop()
    assert PATIENCE * 0.5 < time.monotonic() - began < 8


def test_a_body_that_never_comes_is_a_408(target: Target) -> None:
    with socket.create_connection(("127.0.0.1", target.port), timeout=10) as connection:
        connection.sendall(POST + b"Content-Length: 500\r\n" + END + b"{")
        began = time.monotonic()
        heard = connection.recv(65536)
        assert heard.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began < 8
    target.is_well(draws=True)


def test_many_who_dawdle_hold_nobody_up(target: Target) -> None:
    """A hundred open heads, a hundred open bodies: others are served meanwhile."""
    held = []
    try:
        for number in range(200):
            connection = socket.create_connection(("127.0.0.1", target.port), timeout=10)
            begin = GET + HOST if number % 2 else POST + b"Content-Length: 500\r\n" + END + b"{"
            connection.sendall(begin)
            held.append(connection)
        began = time.monotonic()
        target.is_well(draws=True)
        assert time.monotonic() - began < 4
        time.sleep(PATIENCE)
        deadline = time.monotonic() + 8
        for connection in held:
            connection.settimeout(max(deadline - time.monotonic(), 0.1))
            while connection.recv(65536):  # a 408, or nothing, and then the end
                pass
    finally:
        for connection in held:
            connection.close()
    target.is_well(draws=True)


def test_who_does_not_read_the_answer_holds_nobody_up(target: Target) -> None:
    with socket.create_connection(("127.0.0.1", target.port), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.sendall((b"GET /openapi.json HTTP/1.1\r\n" + HOST + END) * 50)
        for _ in range(3):
            target.is_well(draws=True)


def test_answers_to_requests_in_a_row_do_not_mix(target: Target) -> None:
    first = b"GET /api/jobs/evil HTTP/1.1\r\n" + HOST + END
    last = GET + HOST + b"Connection: close\r\n" + END
    heard = said(target, first + last)
    assert heard.index(b" 404 ") < heard.index(b" 200 ")
    assert heard.count(b"HTTP/1.1 ") == 2
