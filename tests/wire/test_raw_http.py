"""Bytes on the socket that no HTTP library would send: answered in JSON, and soon."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from eztinker.client.embedded import EmbeddedServer

MIB = 1024 * 1024


def _exchange(server: EmbeddedServer, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, read one answer: status, headers, body."""
    address = urlsplit(server.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(sent)
        return _answer(connection)


def _answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    with connection.makefile("rb") as lines:
        status = int(lines.readline().split()[1])
        headers = dict(
            line.decode().rstrip().lower().split(": ", 1) for line in iter(lines.readline, b"\r\n")
        )
        return status, headers, lines.read(int(headers["content-length"]))


MALFORMED = {
    "another-protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "tls": bytes([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]) + b"\x00" * 64,
    "unknown-method": b"FOO /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "header-without-colon": b"GET /health HTTP/1.1\r\nHost x\r\n\r\n",
    "length-is-no-number": b"POST /v1/sample HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
    "broken-chunk": b"POST /v1/sample HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "raw-bytes-in-the-path": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_http_is_refused_in_json(sent: bytes, running_server: EmbeddedServer) -> None:
    status, headers, body = _exchange(running_server, sent)
    assert status in {400, 404}
    assert headers["content-type"] == "application/json"
    answer = orjson.loads(body)
    assert answer["error"]["code"] in {"malformed_http", "route_not_found"}
    assert answer["request_id"] == headers["x-request-id"]


@pytest.mark.parametrize(
    "head",
    [b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nX-Long: " + b"a" * 70_000],
    ids=["address", "header"],
)  # fmt: skip
def test_a_head_that_is_too_long_is_refused(head: bytes, running_server: EmbeddedServer) -> None:
    status, _, body = _exchange(running_server, head + b"\r\nHost: x\r\n\r\n")
    assert status == 431
    assert orjson.loads(body)["error"]["code"] == "head_too_large"


def test_a_header_without_an_end_is_refused(running_server: EmbeddedServer) -> None:
    """Memory stays bounded although the header never ends."""
    address = urlsplit(running_server.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX-Endless: ")
        try:
            for _ in range(256):
                connection.sendall(b"a" * 64 * 1024)
        except OSError:
            return  # closed on us, as it should be
        status, _, _ = _answer(connection)
        assert status == 431


def test_a_connection_outlives_what_clients_keep_theirs_for(running_server: EmbeddedServer) -> None:
    address = urlsplit(running_server.base_url)
    kept_s = httpx.Limits().keepalive_expiry
    assert kept_s is not None
    asked = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(asked)
        assert _answer(connection)[0] == 200
        time.sleep(kept_s + 0.5)
        connection.sendall(asked)
        assert _answer(connection)[0] == 200


@pytest.mark.parametrize("path", ["/v1/sample", "/api/v1/asample"])
def test_a_body_that_is_too_long_is_refused_before_it_is_there(
    path: str, running_server: EmbeddedServer
) -> None:
    """The answer comes while the body is still being sent."""
    address = urlsplit(running_server.base_url)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {200 * MIB}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        started_s = time.monotonic()
        connection.sendall(head.encode() + b" " * MIB)
        status, _, body = _answer(connection)
        assert status == 413
        assert time.monotonic() - started_s < 1
    assert b"max_body_bytes" in body


def test_a_client_that_sends_everything_first_gets_the_answer(
    running_server: EmbeddedServer,
) -> None:
    """httpx reads only when all is sent; the connection must still be there then."""
    with httpx.Client(base_url=running_server.base_url, timeout=30) as client:
        answer = client.post(
            "/v1/sample", content=b" " * (80 * MIB), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 413
        assert client.get("/health").status_code == 200


def test_too_many_values_are_refused_unparsed(running_server: EmbeddedServer) -> None:
    raw = b'{"prompt": [' + b"1," * (9 * MIB) + b"1]}"
    answer = httpx.post(
        f"{running_server.base_url}/v1/sample",
        content=raw,
        headers={"Content-Type": "application/json"},
        timeout=30,
    )
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "too_many_values"


def test_long_heads_of_many_requests_do_not_add_up(running_server: EmbeddedServer) -> None:
    with httpx.Client(base_url=running_server.base_url, timeout=30) as client:
        for _ in range(4):
            assert client.get("/health", headers={"X-Long": "a" * 40_000}).status_code == 200


def test_a_connection_too_many_is_told_so_and_others_go_on() -> None:
    server = EmbeddedServer([], settings={"limits": {"max_connections": 16}})
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    address = urlsplit(server.base_url)
    held: list[socket.socket] = []
    try:
        for _ in range(16):
            held.append(socket.create_connection((address.hostname, address.port), timeout=10))
            held[-1].sendall(request)
            assert _answer(held[-1])[0] == 200
        status, headers, body = _exchange(server, request)
        assert (status, headers["retry-after"]) == (429, "1")
        assert orjson.loads(body)["error"]["code"] == "too_many_connections"
        with socket.create_connection((address.hostname, address.port), timeout=10) as silent:
            assert silent.recv(1) == b""  # closed, though it asked nothing
        held[3].sendall(request)
        assert _answer(held[3])[0] == 200
        held.pop().close()
        deadline_s = time.monotonic() + 5
        while _exchange(server, request)[0] != 200:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    finally:
        for connection in held:
            connection.close()
        server.close()
