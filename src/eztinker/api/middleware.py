"""Around every request: an id, HEAD answered like GET, and one line in the log when we fail.

Plain ASGI. Decides no status but 500. Wrapped around the application by ``server.py``.
"""

from __future__ import annotations

import logging
import re
import secrets
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eztinker.api.errors import error_response
from eztinker.errors import ServerError

log = logging.getLogger(__name__)

_SAFE_ID = re.compile(rb"[A-Za-z0-9._\-]{1,128}\Z")


class RequestFrame:
    """Gives each request its id (``X-Request-ID``, the caller's own if it is a plain one)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request; lifespan and websocket messages pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope = {**scope, "state": {**scope.get("state", {}), "request_id": request_id}}
        answer = _Answer(send, request_id, without_body=scope["method"] == "HEAD")
        if scope["method"] == "HEAD":
            scope["method"] = "GET"
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            return  # nobody is left to answer; the caller's affair, so not worth a line in the log
        except Exception:
            if answer.started:
                raise
            log.exception("Request %s (%s %r) failed", request_id, scope["method"], scope["path"])
            await error_response(_internal_error(request_id), request_id)(scope, receive, answer)


class _Answer:
    """``send``, with the id in the headers and no body after a HEAD."""

    def __init__(self, send: Send, request_id: str, *, without_body: bool) -> None:
        self._send = send
        self._header = (b"x-request-id", request_id.encode("ascii"))
        self._without_body = without_body
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message = {**message, "headers": [*message.get("headers", ()), self._header]}
        elif self._without_body and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)


def _request_id(scope: dict[str, Any] | Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode("ascii") if _SAFE_ID.match(given) else f"req_{secrets.token_hex(8)}"


def _internal_error(request_id: str) -> ServerError:
    return ServerError(
        f"The server failed at this request; that is not your mistake. Its log has the reason under {request_id}."
    )
