"""Errors in OpenAI's shape, and the route class that answers with them.

The statuses are those of ``api/errors.py``, but a request that could not be understood is always 400: clients
of this API do not know 422. Raising inside a route, or in what it depends on, ends here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from eztinker import errors
from eztinker.api.errors import from_validation, status_of

_TYPE_OF_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}
_NAMES = {
    "num_samples": "n",
    "topk_sample_logprobs": "top_logprobs",
    "max_new_tokens": "max_tokens",
    "base_model": "model",
}
"""Fields of the domain, and what callers of this wire call them."""


def error_body(error: errors.EZTinkerError) -> dict[str, Any]:
    """The ``error`` object."""
    param = error.field
    message = error.message
    if param in _NAMES:
        message = message.replace(f"{param}:", f"{_NAMES[param]}:", 1)
        param = _NAMES[param]
    status = openai_status(error)
    default = "invalid_request_error" if status < 500 else "server_error"
    return {
        "error": {
            "message": message,
            "type": _TYPE_OF_STATUS.get(status, default),
            "param": param,
            "code": error.code,
        }
    }


def openai_status(error: errors.EZTinkerError) -> int:
    """HTTP status: 400 where the native wire says 409 or 422."""
    status = status_of(error)
    return 400 if status in {409, 422} else status


def error_response(error: errors.EZTinkerError) -> Response:
    """The whole answer to a request that failed."""
    headers = {}
    if isinstance(error, errors.CapacityError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 1)))
    return Response(
        orjson.dumps(error_body(error)),
        openai_status(error),
        headers,
        media_type="application/json",
    )


class OpenAIRoute(APIRoute):
    """A route whose errors have OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with what it raises turned into answers."""
        handle = super().get_route_handler()

        async def handle_or_explain(request: Request) -> Response:
            try:
                return await handle(request)
            except errors.EZTinkerError as error:
                return error_response(error)
            except RequestValidationError as error:
                first = error.errors()[0]
                return error_response(from_validation([{**first, "loc": first["loc"][1:]}]))

        return handle_or_explain
