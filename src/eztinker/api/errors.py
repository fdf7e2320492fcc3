"""Errors on the native wire: the one table of status codes, and the JSON that carries them.

Everything that goes wrong ends here: errors of the tree, bodies and queries that do not fit their
schema, unknown routes and methods. It decides no rule itself. ``api/server.py`` registers its handlers;
the Tinker and OpenAI wires have tables of their own.

``TooLargeError`` is 422 (a request that could be read asks for more than a limit allows); only a body
that is too long to be read is 413, or a head 431 (``http_protocol.py``).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from eztinker import errors
from eztinker.models.api import KIND_PREFIX, near_name
from eztinker.types.error_info import ErrorInfo

STATUS_OF_CLASS: dict[type[errors.EZTinkerError], int] = {
    errors.EZTinkerError: 500,
    errors.UserError: 400,
    errors.InvalidRequestError: 400,
    errors.UnsupportedError: 400,
    errors.TooLargeError: 422,
    errors.AlreadyExistsError: 409,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.CancelledError: 409,
    errors.AuthError: 401,
    errors.CapacityError: 503,
    errors.BusyError: 429,
    errors.OutOfMemoryError: 503,
    errors.DiskFullError: 503,
    errors.ServerError: 500,
    errors.NumericalError: 422,
}
STATUS_OF_CODE = {
    "body_too_large": 413,
    "head_too_large": 431,
    "method_not_allowed": 405,
    "unsupported_media_type": 415,
    "missing_scope": 403,
    "unknown_host": 403,
    "cross_origin": 403,
}
"""Codes that HTTP itself has a status for; they outrank the class."""

_MAX_SHOWN = 100


def status_of(error: errors.EZTinkerError) -> int:
    """HTTP status of an error: by code where HTTP has its own, else by the nearest class."""
    by_code = STATUS_OF_CODE.get(error.code)
    if by_code is not None:
        return by_code
    return next(STATUS_OF_CLASS[cls] for cls in type(error).__mro__ if cls in STATUS_OF_CLASS)


def error_fields(error: errors.EZTinkerError | ErrorInfo) -> dict[str, Any]:
    """The ``error`` object of an answer."""
    fields: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.field is not None:
        fields["field"] = error.field
    if error.details:
        fields["details"] = error.details
    return fields


def error_response(error: errors.EZTinkerError, request_id: str) -> Response:
    """The whole answer to a request that failed."""
    body = {"error": error_fields(error), "request_id": request_id}
    headers = {}
    if isinstance(error, errors.CapacityError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    return Response(
        orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS, default=str),
        status_of(error),
        headers,
        media_type="application/json",
    )


async def answer_error(request: Request, error: Exception) -> Response:
    """Handler of ``EZTinkerError``."""
    assert isinstance(error, errors.EZTinkerError)
    return error_response(error, request.state.request_id)


async def answer_invalid_parameters(request: Request, error: Exception) -> Response:
    """Handler of queries and headers that FastAPI found wrong."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = {"query": "query parameter ", "header": "header "}.get(str(first["loc"][0]), "")
    mended = from_validation([{**first, "loc": first["loc"][1:]}])
    mended.message = where + mended.message
    return error_response(mended, request.state.request_id)


# Schema violations --------------------------------------------------------------------------------

_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "an integer of at most 64 bits",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "finite_number": "a finite number",
    "none_required": "null",
}
_EXPECTED_WITH = {
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "too_short": "at least {min_length} item(s)",
    "too_long": "at most {max_length} items",
    "string_too_short": "a text of at least {min_length} character(s)",
    "string_too_long": "a text of at most {max_length} characters",
    "literal_error": "{expected}",
}
_REMEDY = {
    "int_type": "Write it without quotes and without a decimal point.",
    "float_type": "Write it without quotes.",
    "bool_type": "Write it without quotes.",
    "string_type": "Put it in quotes.",
    "too_short": "Give at least that many, or leave the field out if it is optional.",
    "string_too_short": "Give a text, or leave the field out if it is optional.",
}
_DEFAULT_REMEDY = "See /docs for this route's fields."


def from_validation(details: Sequence[Mapping[str, Any]]) -> errors.InvalidRequestError:
    """Turn pydantic's findings into one error about the first of them."""
    first = details[0]
    field = field_name(first["loc"])
    context = first.get("ctx") or {}
    if first["type"] == "unknown_field":
        return _unknown_field(field, context)
    label = field or "the body"
    if first["type"] == "missing":
        return errors.InvalidRequestError(
            f"{label}: missing. Add this field; see /docs for this route's fields.",
            code="missing_field",
            field=field or None,
        )
    remedy = _REMEDY.get(first["type"], _DEFAULT_REMEDY)
    if first["input"] is None:
        remedy = "Leave the field out to get its default."
    return errors.InvalidRequestError(
        f"{label}: expected {_expected(first, context)}, got {shorten(first['input'])}. {remedy}",
        field=field or None,
    )


def _expected(finding: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    kind = finding["type"]
    if kind in _EXPECTED_WITH:
        return _EXPECTED_WITH[kind].format(**context)
    return _EXPECTED.get(kind, str(finding["msg"]))


def _unknown_field(parent: str, context: Mapping[str, Any]) -> errors.InvalidRequestError:
    name = f"{parent}.{context['name']}" if parent else str(context["name"])
    hint = f" Did you mean {context['near']}?" if context["near"] else ""
    return errors.InvalidRequestError(
        f"{name}: unknown field, refused so that nothing is silently ignored.{hint} "
        f"Known fields: {context['known']}.",
        code="unknown_field",
        field=name,
    )


def field_name(location: Sequence[int | str]) -> str:
    """``("data", 3, "input_ids", 0)`` as ``data[3].input_ids[0]``."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif not part.startswith(KIND_PREFIX):
            name += f".{part[:64]}" if name else part[:64]
    return name


def shorten(value: Any) -> str:
    """What came, in at most about a hundred characters, never walking a large value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} item(s)"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, str):
        shown = repr(value[:_MAX_SHOWN])
        return f"the text {shown}{'…' if len(value) > _MAX_SHOWN else ''}"
    return repr(value)[:_MAX_SHOWN]


# Routes -------------------------------------------------------------------------------------------


def unknown_route(method: str, path: str, known: Sequence[str]) -> errors.NotFoundError:
    """No such path; names the nearest one."""
    trimmed = path.rstrip("/") or "/"
    near = trimmed if trimmed in known else None
    near = near or next(
        iter(difflib.get_close_matches(trimmed[:200], known, n=1, cutoff=0.7)), None
    )
    hint = f" Did you mean {near}?" if near else ""
    return errors.NotFoundError(
        f"There is no {method} {path[:_MAX_SHOWN]!r} here.{hint} All routes: /docs.",
        code="route_not_found",
    )


def wrong_method(method: str, path: str, allowed: Sequence[str]) -> errors.UserError:
    """The path exists, the method does not."""
    return errors.UserError(
        f"{path[:_MAX_SHOWN]} does not answer {method[:20]}; it answers {', '.join(allowed)}.",
        code="method_not_allowed",
        details={"allowed": list(allowed)},
    )


def unknown_parameter(
    name: str, known: Sequence[str], *, repeated: bool = False
) -> errors.InvalidRequestError:
    """A query parameter that the route does not have, or that came twice."""
    near = near_name(name, list(known))
    hint = f" Did you mean {near}?" if near else ""
    problem = "given more than once, send it once." if repeated else f"unknown.{hint}"
    return errors.InvalidRequestError(
        f"query parameter {name[:64]}: {problem} Known here: {', '.join(known) or 'none'}.",
        code="unknown_field",
        field=name[:64],
    )
