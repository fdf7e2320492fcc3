"""Errors on the Tinker wire: its own table of status codes, and the bodies that carry them.

The official client sleeps and tries again, for minutes or longer, after 402, 408, 409, 410, 429 and
5xx. So nothing that will fail again may have one of these: what the caller did wrong, and what we did
wrong, is a 4xx with ``{"detail"}``; only a lack of room, which passes, is 429 or 503. Used by
``endpoint.py``.
"""

from __future__ import annotations

import math

from starlette.responses import JSONResponse, Response

from eztinker import errors

STATUS_OF_CLASS: dict[type[errors.EZTinkerError], int] = {
    errors.EZTinkerError: 422,
    errors.UserError: 400,
    errors.NotFoundError: 404,
    errors.AuthError: 401,
    errors.CapacityError: 503,
    errors.BusyError: 429,
    errors.OutOfMemoryError: 422,
}
STATUS_OF_CODE = {
    "body_too_large": 413,
    "method_not_allowed": 405,
    "unsupported_media_type": 415,
    "missing_scope": 403,
    "unknown_host": 403,
    "cross_origin": 403,
}


def status_of(error: errors.EZTinkerError) -> int:
    """HTTP status of an error on this wire."""
    by_code = STATUS_OF_CODE.get(error.code)
    if by_code is not None:
        return by_code
    return next(STATUS_OF_CLASS[cls] for cls in type(error).__mro__ if cls in STATUS_OF_CLASS)


def error_response(error: errors.EZTinkerError) -> Response:
    """The whole answer to a request that failed."""
    body = {"detail": error.message, "code": error.code}
    headers = {}
    if status_of(error) in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    return JSONResponse(body, status_of(error), headers)


def future_category(category: str) -> str:
    """Category of a failed future, in the words of the protocol."""
    return "user" if category == "user" else "server"
