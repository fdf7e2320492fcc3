"""Answers of a conversation piece by piece, over the OpenAI-compatible route of the server.

Reads server-sent events; nothing is tried again, for what was shown cannot be taken back. Knows no terminal. Called
by the ``chat`` command.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import orjson

from eztinker.client.answers import Answer, error_of
from eztinker.client.transport import (
    connection_options,
    resolve_api_key,
    resolve_base_url,
)
from eztinker.errors import ServerError, ServerUnreachableError

_DATA = "data: "
_END = "[DONE]"


class ChatStream:
    """A connection to a server for conversations.

    Args:
        base_url: default: ``EZTINKER_BASE_URL``, else this machine's usual address.
        api_key: default: ``EZTINKER_API_KEY``.
        timeout_s: longest silence; the server says something every 15 seconds.
        transport: instead of the network, for tests.
    """

    def __init__(
        self,
        base_url: str | None,
        api_key: str | None,
        timeout_s: float,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._base_url = resolve_base_url(base_url)
        options = connection_options(self._base_url, resolve_api_key(api_key))
        self._http = httpx.Client(**options, timeout=timeout_s, transport=transport)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def default_model(self) -> str:
        """The model that answers when none is named.

        Raises:
            EZTinkerError: as ``pieces``.
        """
        return self._get("/v1/models").json()["default"]

    def check_model(self, model: str) -> None:
        """Return if the server knows such a model.

        Raises:
            EZTinkerError: as ``pieces``.
        """
        self._get(f"/v1/models/{quote(model, safe='')}")

    def _get(self, path: str) -> httpx.Response:
        try:
            response = self._http.get(path)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        _raise_for(response)
        return response

    def pieces(self, model: str, messages: list[dict[str, str]], **sampling: Any) -> Iterator[str]:
        """The answer to the last message; the pieces put together are the whole.

        Args:
            model: a base model, a run, or ``RUN@CHECKPOINT``.
            messages: with ``role`` and ``content``.
            **sampling: fields of ``POST /v1/chat/completions``; those that are None are left out.

        Raises:
            EZTinkerError: the server refuses, fails on the way, or does not answer.
        """
        given = {name: value for name, value in sampling.items() if value is not None}
        body = {"model": model, "messages": messages, "stream": True, **given}
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if not response.is_success:
                    response.read()
                _raise_for(response)
                yield from _texts(response.iter_lines())
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: httpx.HTTPError) -> ServerUnreachableError:
        reason = str(error) or type(error).__name__
        return ServerUnreachableError(
            f"No EZTinker server answers at {self._base_url} ({reason}). Start one with 'eztinker server', or "
            "name another address with --base-url or EZTINKER_BASE_URL."
        )


def _raise_for(response: httpx.Response) -> None:
    if not response.is_success:
        raise error_of(Answer(response.status_code, response.headers, response.content))


def _texts(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith(_DATA):
            continue  # between events, or a sign of life
        data = line.removeprefix(_DATA)
        if data == _END:
            return
        event = orjson.loads(data)
        if "error" in event:
            raise error_of(Answer(500, {}, orjson.dumps(event)))
        yield event["choices"][0]["delta"].get("content") or ""
    raise ServerError("The answer broke off: the server closed the connection. Ask again.")
