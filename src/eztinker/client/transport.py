"""HTTP for the client: performs the effects of a flow over httpx, blocking or in asyncio.

Two drivers of the same flows, each a few lines. Turns every failure of the connection into ``NoAnswer``;
what that means is decided in ``retry.py``. Knows no route and no JSON. Called by the two clients.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from typing import Any, TypeVar

import httpx

from eztinker.client.answers import Answer, NoAnswer
from eztinker.client.flows import Effect, Flow, Pause, Send
from eztinker.errors import InvalidRequestError

T = TypeVar("T")

DEFAULT_BASE_URL = "http://localhost:8000"
BASE_URL_VARIABLE = "EZTINKER_BASE_URL"
API_KEY_VARIABLE = "EZTINKER_API_KEY"

CONNECT_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 60.0
MAX_CONNECTIONS = 1024
MAX_IDLE_CONNECTIONS = 128

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_UNREACHABLE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)


def resolve_base_url(base_url: str | None) -> str:
    """The server's address: the argument, else ``EZTINKER_BASE_URL``, else the default.

    Raises:
        InvalidRequestError: it is not an http or https address.
    """
    url = (base_url or os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL).rstrip("/")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    is_address = parsed.scheme in {"http", "https"} and parsed.host and (parsed.port or 1) < 65536
    if not is_address or url.split() != [url]:
        raise InvalidRequestError(
            f"base_url: expected an address like {DEFAULT_BASE_URL}, got {url!r}.", field="base_url"
        )
    return url


def resolve_api_key(api_key: str | None) -> str | None:
    """The key: the argument, else ``EZTINKER_API_KEY``, else none.

    Raises:
        InvalidRequestError: it holds characters that no header can carry.
    """
    key = api_key or os.environ.get(API_KEY_VARIABLE) or None
    if key is not None and not (key.isascii() and key.isprintable()):
        raise InvalidRequestError(
            "api_key: expected printable ASCII characters without line ends.", field="api_key"
        )
    return key


class Transport:
    """Runs flows in the calling thread; any number of threads may call it at once.

    Args:
        mock: an httpx transport to use instead of the network, for tests.
    """

    def __init__(
        self, base_url: str, api_key: str | None, mock: httpx.BaseTransport | None = None
    ) -> None:
        self._http = httpx.Client(**connection_options(base_url, api_key), transport=mock)

    def run(self, flow: Flow[T]) -> T:
        """Perform the flow to its end and return its value."""
        reply: Answer | NoAnswer | None = None
        while True:
            try:
                effect = flow.send(reply)
            except StopIteration as end:
                return end.value
            reply = self._perform(effect)

    def _perform(self, effect: Effect) -> Answer | NoAnswer | None:
        if isinstance(effect, Pause):
            time.sleep(effect.seconds)
            return None
        try:
            response = self._http.request(**_arguments(effect))
        except httpx.HTTPError as error:
            return _no_answer(error)
        return _answer(response)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()


class AsyncTransport:
    """Runs flows in the current event loop; any number of tasks may call it at once.

    Args:
        mock: an httpx transport to use instead of the network, for tests.
    """

    def __init__(
        self, base_url: str, api_key: str | None, mock: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._http = httpx.AsyncClient(**connection_options(base_url, api_key), transport=mock)

    async def run(self, flow: Flow[T]) -> T:
        """Perform the flow to its end and return its value."""
        reply: Answer | NoAnswer | None = None
        while True:
            try:
                effect = flow.send(reply)
            except StopIteration as end:
                return end.value
            reply = await self._perform(effect)

    async def _perform(self, effect: Effect) -> Answer | NoAnswer | None:
        if isinstance(effect, Pause):
            await asyncio.sleep(effect.seconds)
            return None
        try:
            response = await self._http.request(**_arguments(effect))
        except httpx.HTTPError as error:
            return _no_answer(error)
        return _answer(response)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()


def connection_options(base_url: str, api_key: str | None) -> dict[str, Any]:
    """What the httpx clients are made with; httpx sets TCP_NODELAY on its sockets itself."""
    url = httpx.URL(base_url)
    headers = {"Accept": "application/json"}
    if api_key:
        headers["X-API-Key"] = api_key
    if url.scheme == "http" and url.host == "localhost":
        # Resolving "localhost" may give ::1 first, where an EZTinker server does not listen by default.
        headers["Host"] = url.netloc.decode("ascii")
        url = url.copy_with(host="127.0.0.1")
    return {
        "base_url": url,
        "headers": headers,
        "limits": httpx.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_IDLE_CONNECTIONS
        ),
        # A proxy of the environment cannot reach this machine's own loopback address.
        "trust_env": url.host not in LOOPBACK_HOSTS,
        "verify": _tls(url.scheme),
    }


def _tls(scheme: str) -> ssl.SSLContext | bool:
    """The usual verification; plain http gets a context that trusts no one, which is made faster."""
    return True if scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _arguments(send: Send) -> dict[str, Any]:
    timeout = httpx.Timeout(
        connect=CONNECT_TIMEOUT_S,
        read=send.read_timeout_s,
        write=WRITE_TIMEOUT_S,
        pool=send.read_timeout_s,
    )
    return {
        "method": send.method,
        "url": send.path,
        "params": send.params or None,
        "headers": send.headers,
        "content": send.content,
        "timeout": timeout,
    }


def _answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.headers, response.content)


def _no_answer(error: httpx.HTTPError) -> NoAnswer:
    reason = str(error) or type(error).__name__
    if isinstance(error, _UNREACHABLE):
        return NoAnswer("unreachable", reason)
    if isinstance(error, httpx.TimeoutException):
        return NoAnswer("timeout", reason)
    return NoAnswer("broken", reason)
