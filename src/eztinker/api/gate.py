"""The gate: who may come in, before any route has seen the request.

In this order: the name the server was called by (DNS rebinding), the page that calls (CORS is closed),
the key, what the key allows for this route, how often it asks, how much is being read already. What
passes gets ``request.state.service``: the service as this principal sees it, and no other. Plain ASGI.
Wrapped around the application by ``server.py``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eztinker.api.errors import error_response
from eztinker.api.rates import Guesses, Rates
from eztinker.api.scopes import RouteTable
from eztinker.config import ServerConfig
from eztinker.errors import AuthError, BusyError, EZTinkerError, UserError
from eztinker.service.accounts import unauthorized
from eztinker.types.principal import Principal

if TYPE_CHECKING:
    from eztinker.service.service import Service

AnswerError = Callable[[EZTinkerError, str], Response]


class Gate:
    """Lets requests through to the application, each with its own view of the service.

    Args:
        routes: of the application.
        answers: how refusals look below a prefix of the path; elsewhere as on the native wire.
    """

    def __init__(
        self, app: ASGIApp, routes: Sequence[Any], answers: Mapping[str, AnswerError]
    ) -> None:
        self._app = app
        self._table = RouteTable(routes)
        self._answers = dict(answers)
        self._guesses = Guesses()
        self._rates: Rates | None = None
        self._bodies = _Bodies()
        self._own_name = socket.gethostname().lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        service: Service = scope["app"].state.service
        try:
            principal = await self._admit(scope, service)
        except EZTinkerError as error:
            await self._refusal(scope, error)(scope, receive, send)
            return
        scope["state"]["service"] = service.seen_by(principal)
        body = self._bodies.counted(receive, service.config.limits.max_bodies_bytes)
        try:
            await self._app(scope, body, send)
        finally:
            body.release()

    async def _admit(self, scope: Scope, service: Service) -> Principal:
        headers = Headers(scope=scope)
        principal = await self._principal(headers, scope, service)
        if principal.key_id is None:
            # Who shows a valid key was not sent here by a foreign page: no page knows the key.
            _check_host(headers.get("host", ""), service.config, self._own_name)
        _check_origin(headers)
        self._check_scope(principal, scope)
        if principal.key_id is not None and not principal.sees_all:
            if self._rates is None:
                self._rates = Rates(service.config.limits.max_requests_per_s)
            self._rates.spend(principal.key_id, time.monotonic())
        return principal

    async def _principal(self, headers: Headers, scope: Scope, service: Service) -> Principal:
        try:
            key, signed = _shown_key(headers), _signature(scope)
            if key is None and signed is not None:
                return service.accounts.signed_principal(scope["path"], signed)
            return service.accounts.principal(key)
        except AuthError:
            await self._slow_down(scope)
            raise

    async def _slow_down(self, scope: Scope) -> None:
        """Let whoever guesses keys wait; nobody else does."""
        address = scope["client"][0] if scope.get("client") else ""
        delay_s = self._guesses.begin(address, time.monotonic())
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._guesses.end(address)

    def _check_scope(self, principal: Principal, scope: Scope) -> None:
        needed = self._table.needed(scope["method"], scope["path"])
        if needed == () or scope["method"] == "OPTIONS":
            return
        if not principal.scopes:
            raise unauthorized("none")
        if needed is not None and not principal.may(needed):
            raise AuthError(
                f"Key {principal.key_id} may not do this: it needs the scope {' or '.join(needed)}, and has "
                f"{', '.join(sorted(principal.scopes))}.",
                code="missing_scope",
            )

    def _refusal(self, scope: Scope, error: EZTinkerError) -> Response:
        found = (of for prefix, of in self._answers.items() if scope["path"].startswith(prefix))
        response = next(found, error_response)(error, scope["state"]["request_id"])
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response


def _shown_key(headers: Headers) -> str | None:
    """The key of a request, from either of the two headers."""
    key = headers.get("x-api-key")
    if key is not None:
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _signature(scope: Scope) -> str | None:
    """What an address that we gave out for reading carries in the place of a key."""
    if scope["method"] != "GET" or b"access=" not in scope.get("query_string", b""):
        return None
    return QueryParams(scope["query_string"]).get("access")


def _check_host(host: str, config: ServerConfig, own_name: str) -> None:
    """Refuse a name that is not known to be ours.

    A page of a foreign name whose owner lets that name point to 127.0.0.1 would be the same origin to a
    browser. An address in the place of a name cannot be pointed anywhere.
    """
    name = _without_port(host).lower().rstrip(".")
    known = {"", "localhost", config.host.lower(), own_name, *map(str.lower, config.allowed_hosts)}
    if name in known or "*" in known or name.endswith(".localhost") or _is_address(name):
        return
    raise UserError(
        f"This server does not go by the name {name[:100]!r}. Call it by its address, or start it with "
        f"--allowed-host {name[:100]}; a request with a key may use any name.",
        code="unknown_host",
        field="Host",
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_origin(headers: Headers) -> None:
    """Refuse what a page of another origin sends; our own page's requests name our host."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host", ""):
        raise UserError(
            f"Requests from pages of {origin[:100]!r} are not answered: only this server's own page may call it "
            "from a browser. Call it from a program, which sends no Origin.",
            code="cross_origin",
            field="Origin",
        )


class _Bodies:
    """Bytes of the bodies that are held in memory by all requests together."""

    def __init__(self) -> None:
        self.num_bytes = 0

    def counted(self, receive: Receive, most: int) -> _CountedReceive:
        """``receive``, counting what it brings."""
        return _CountedReceive(self, receive, most)


class _CountedReceive:
    def __init__(self, bodies: _Bodies, receive: Receive, most: int) -> None:
        self._bodies = bodies
        self._receive = receive
        self._most = most
        self._num_bytes = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            num_bytes = len(message.get("body", b""))
            if self._bodies.num_bytes + num_bytes > self._most:
                raise BusyError(
                    f"Bodies of more than {self._most} bytes are being read (limits.max_bodies_bytes). Try "
                    "again in a moment.",
                    retry_after_s=1.0,
                )
            self._num_bytes += num_bytes
            self._bodies.num_bytes += num_bytes
        return message

    def release(self) -> None:
        """The request is over, and its body gone."""
        self._bodies.num_bytes -= self._num_bytes
        self._num_bytes = 0
