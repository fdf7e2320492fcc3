"""Bodies of requests: read with a bound, parsed fast, refused by name.

Counts bytes as they arrive, so that a body without a length cannot fill the memory. orjson refuses
what is not strict JSON (NaN, broken UTF-8, a thousand levels of nesting), a field that is there twice is refused, too;
pydantic checks the schema.
Knows no route. Called by ``deps.py``.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from eztinker.api.errors import from_validation
from eztinker.config import Limits
from eztinker.errors import InvalidRequestError, TooLargeError, UserError

M = TypeVar("M", bound=BaseModel)


async def read_raw(request: Request, limits: Limits) -> bytes:
    """The whole body of a request that must be JSON.

    Raises:
        TooLargeError: code ``body_too_large`` or ``too_many_values``.
        UserError: code ``unsupported_media_type``, there is a body and it is not called JSON, or it is
            compressed.
    """
    _check_encoding(request.headers.get("content-encoding", ""))
    raw = await read_bytes(request, limits.max_body_bytes)
    if raw:
        _check_content_type(request.headers.get("content-type"))
        check_num_values(raw, limits.max_body_values)
    return raw


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """The whole body, whatever it is.

    A body that is too long is refused at once; the connection goes on taking what the client still
    sends (``http_protocol.py``), for a client may read the answer only after it has sent everything.

    Raises:
        TooLargeError: code ``body_too_large``.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(int(declared), max_bytes)
    chunks: list[bytes] = []
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise _too_large(num_bytes, max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(num_bytes: int, max_bytes: int) -> TooLargeError:
    return TooLargeError(
        f"The body has {num_bytes} bytes or more, and this server reads at most {max_bytes}. Split the "
        "request, or raise limits.max_body_bytes in the server's settings.",
        code="body_too_large",
        details={"limit": max_bytes, "setting": "limits.max_body_bytes"},
    )


def _check_encoding(value: str) -> None:
    """Compressed bodies are not read: a few bytes of them may stand for more than the memory holds."""
    if value.strip().lower() not in ("", "identity"):
        raise UserError(
            f"Content-Encoding {value[:100]!r} is not read here. Send the body as it is.",
            code="unsupported_media_type",
            field="Content-Encoding",
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


def check_num_values(raw: bytes, max_values: int) -> None:
    """Refuse a body of too many values before it is parsed: nothing else is answered meanwhile.

    Every value of JSON but the first follows a comma, and commas are counted in a thirtieth of the
    time; those inside of texts count too, which the limit leaves room for.

    Raises:
        TooLargeError: code ``too_many_values``.
    """
    num_values = raw.count(b",") + 1
    if num_values > max_values:
        raise TooLargeError(
            f"The body has about {num_values} values, and this server parses at most {max_values} in "
            "one request. Split the request, or raise limits.max_body_values in the server's settings.",
            code="too_many_values",
            details={"limit": max_values, "setting": "limits.max_body_values"},
        )


def parse(raw: bytes, model: type[M]) -> M:
    """The body as an instance of ``model``; an empty body counts as ``{}``.

    Raises:
        InvalidRequestError: code ``invalid_json`` or ``duplicate_field``, or the first field that does not fit.
    """
    try:
        content = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(
            f"The body is not strict JSON: {str(error)[:200]}. Expected an object such as "
            '{"field": value}; NaN and Infinity are no JSON.',
            code="invalid_json",
        ) from None
    if raw.count(b'":') != _num_keys(content):
        _refuse_duplicates(raw)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False)) from None


def _num_keys(content: Any) -> int:
    """Names in all objects, but for those in lists that begin with a plain value.

    Where it differs from how often a quote and a colon follow each other, a name is there twice, or a text has such a
    pair in it, or something stands between the two: then it is worth another look.
    """
    num_keys, left = 0, [content]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            num_keys += len(node)
            left += node.values()
        elif isinstance(node, list) and node and isinstance(node[0], (dict, list)):
            left += node
    return num_keys


def _refuse_duplicates(raw: bytes) -> None:
    """Parsers take the last of two equal names; which of them the caller meant is not ours to guess."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise InvalidRequestError(
                f"{twice[:100]}: given twice in one object. Send it once.",
                code="duplicate_field",
                field=twice[:100],
            )

    try:
        # Numbers of any length stay texts: only the names matter.
        json.loads(raw or b"{}", object_pairs_hook=check, parse_int=str, parse_float=str)
    except RecursionError:
        raise InvalidRequestError(
            "The body is nested too deeply. Send a flat object.", code="invalid_json"
        ) from None
