"""Bodies of requests: read with a bound, parsed fast, refused by name.

Counts bytes as they arrive, so that a body without a length cannot fill the memory. orjson refuses
what is not strict JSON (NaN, broken UTF-8, a thousand levels of nesting); pydantic checks the schema.
Knows no route. Called by ``deps.py``.
"""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from eztinker.api.errors import from_validation
from eztinker.errors import InvalidRequestError, TooLargeError, UserError

M = TypeVar("M", bound=BaseModel)

_DRAIN_S = 1.0


async def read_raw(request: Request, max_bytes: int) -> bytes:
    """The whole body of a request that must be JSON.

    Raises:
        TooLargeError: code ``body_too_large``.
        UserError: code ``unsupported_media_type``, there is a body and it is not called JSON.
    """
    raw = await read_bytes(request, max_bytes)
    if raw:
        _check_content_type(request.headers.get("content-type"))
    return raw


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The whole body, whatever it is.

    Raises:
        TooLargeError: code ``body_too_large``.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        await _drain(request)
        raise _too_large(int(declared), max_bytes)
    chunks: list[bytes] = []
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            chunks.clear()
            await _drain(request)
            raise _too_large(num_bytes, max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


async def _drain(request: Request) -> None:
    """Take what the client still sends, for a moment: a reset connection would hide the answer.

    A client that asked first (``Expect: 100-continue``) sends nothing before it has our answer.
    """
    if request.headers.get("expect", "").lower() == "100-continue":
        return
    until_s = time.monotonic() + _DRAIN_S
    try:
        async with asyncio.timeout(_DRAIN_S):
            # Not request.stream(): it may be in use already.
            while time.monotonic() < until_s:
                message = await request.receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except (TimeoutError, ClientDisconnect):
        return


def _too_large(num_bytes: int, max_bytes: int) -> TooLargeError:
    return TooLargeError(
        f"The body has {num_bytes} bytes or more, and this server reads at most {max_bytes}. Split the "
        "request, or raise limits.max_body_bytes in the server's settings.",
        code="body_too_large",
        details={"limit": max_bytes, "setting": "limits.max_body_bytes"},
    )


def _check_content_type(value: str | None) -> None:
    kind, _, parameters = (value or "").partition(";")
    kind = kind.strip().lower()
    is_json = kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )
    charset = parameters.lower().replace('"', "").replace(" ", "")
    if is_json and ("charset=" not in charset or "charset=utf-8" in charset):
        return
    raise UserError(
        f"The body must be JSON in UTF-8, got Content-Type {(value or 'none')[:100]!r}. Send the header "
        "'Content-Type: application/json' (curl: -H 'Content-Type: application/json').",
        code="unsupported_media_type",
        field="Content-Type",
    )


def parse(raw: bytes, model: type[M]) -> M:
    """The body as an instance of ``model``; an empty body counts as ``{}``.

    Raises:
        InvalidRequestError: code ``invalid_json``, or the first field that does not fit.
    """
    try:
        content = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(
            f"The body is not strict JSON: {str(error)[:200]}. Expected an object such as "
            '{"field": value}; NaN and Infinity are no JSON.',
            code="invalid_json",
        ) from None
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False)) from None
