"""HTTP/1.1 on the socket, with our answer to what is not HTTP.

uvicorn answers a broken request itself, in plain text, and reads a request head of any length. Here a
broken one is answered in our JSON, and a head that is too long is refused while it still arrives. uvicorn
also sends head and body of an answer one by one, which wakes the client twice; here they leave together.
Knows no route. Given to uvicorn by ``launch.py``.
"""

from __future__ import annotations

import asyncio
import http
import secrets
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from eztinker.api.errors import error_fields
from eztinker.errors import (
    BusyError,
    EZTinkerError,
    InvalidRequestError,
    TooLargeError,
    UserError,
)

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together."""


SILENT_EXCESS_S = 2.0
"""A connection beyond the bound that asks nothing is closed after so long."""
MAX_JOINED_BYTES = 64 * 1024
"""More than this is sent at once, in as many pieces as it comes."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    _num_head_bytes = 0
    """Of the present request, as far as parsed."""
    _num_waiting_bytes = 0
    """Came since a head began: the parser keeps a header to itself until it ends."""
    _is_in_head = True

    _is_one_too_many = False
    max_connections = 4096
    """Of the server; ``with_limit`` sets it."""

    @classmethod
    def with_limit(cls, max_connections: int) -> type[HttpProtocol]:
        """The protocol of a server that holds so many connections at one time."""
        return type(cls.__name__, (cls,), {"max_connections": max_connections})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Someone has connected; one too many is told so and let go."""
        super().connection_made(transport)
        self.transport = _JoinedWrites(transport)  # type: ignore[assignment]
        if len(self.connections) > self.max_connections:
            # Told when it asks: an answer that leaves before the question is lost with a reset.
            self._is_one_too_many = True
            self.loop.call_later(SILENT_EXCESS_S, self.transport.close)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._is_one_too_many:
            if not self.transport.is_closing():
                self._refuse(http.HTTPStatus.TOO_MANY_REQUESTS, _too_many(self.max_connections))
            return
        self._num_waiting_bytes += len(data)
        super().data_received(data)
        if not self._is_in_head:
            self._num_waiting_bytes = 0
        elif self._num_waiting_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _too_long())

    def on_message_begin(self) -> None:
        """A request begins."""
        self._num_head_bytes = 0
        self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._is_in_head = False
        self._num_waiting_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole; what follows is the next request's head."""
        super().on_message_complete()
        self._is_in_head = True
        self._num_waiting_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, num_bytes: int) -> None:
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > MAX_HEAD_BYTES:
            raise ValueError  # the parser stops, and asks for send_400_response

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser could not read, and close: where a next request begins is unknown."""
        if self._num_head_bytes > MAX_HEAD_BYTES:
            self._refuse(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _too_long())
        else:
            self._refuse(http.HTTPStatus.BAD_REQUEST, _malformed())

    def _refuse(self, status: http.HTTPStatus, error: EZTinkerError) -> None:
        request_id = f"req_{secrets.token_hex(8)}"
        body = orjson.dumps({"error": error_fields(error), "request_id": request_id})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\nconnection: close\r\n"
        )
        if isinstance(error, BusyError):
            head += f"retry-after: {error.retry_after_s:.0f}\r\n"
        head += "\r\n"
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


class _JoinedWrites:
    """A transport that sends what is written in one go as one piece."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._num_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send with what is written before the event loop goes on."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._num_bytes += len(data)
        if self._num_bytes > MAX_JOINED_BYTES:
            self._flush()  # the transport must see how much it is, to slow its writer down

    def close(self) -> None:
        """Close when everything has been sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces, self._num_bytes = self._pieces, [], 0
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))


def _malformed() -> UserError:
    return InvalidRequestError(
        "What came is not a HTTP/1.1 request: its first line, a header or the framing of its body is "
        "broken, or its method does not exist. This server speaks HTTP without TLS: the address "
        "begins with http://, and a proxy in between must pass requests on unchanged.",
        code="malformed_http",
    )


def _too_many(limit: int) -> BusyError:
    return BusyError(
        f"This server holds {limit} connections (limits.max_connections). Keep connections open and use them "
        "again, ask with fewer at a time, or come back in a moment.",
        code="too_many_connections",
        details={"limit": limit},
        retry_after_s=1.0,
    )


def _too_long() -> UserError:
    return TooLargeError(
        f"The request's address and headers have more than {MAX_HEAD_BYTES} bytes, the most that this "
        "server reads. Put long values into the body.",
        code="head_too_large",
        details={"limit": MAX_HEAD_BYTES},
    )
