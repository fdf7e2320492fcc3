"""The Tinker wire as one application, mounted below ``/api/v1``.

It has a 404 of its own: the official client shows ``detail`` and takes some statuses as a reason to try
again.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from eztinker.api.routes.tinker import (
    downloads,
    futures,
    history,
    models,
    rest,
    sampling,
    session,
    training,
)
from eztinker.api.tinker.errors import error_response
from eztinker.errors import NotFoundError, UserError

# In the order of how often they are asked, as they are tried one after the other.
ROUTES = (
    *futures.ROUTES,
    *training.ROUTES,
    *sampling.ROUTES,
    *session.ROUTES,
    *models.ROUTES,
    *rest.ROUTES,
    *history.ROUTES,
    *downloads.ROUTES,
)


def create_tinker_app() -> Starlette:
    """The application; the gate in front of it says which service it asks."""
    app = Starlette(routes=list(ROUTES), exception_handlers={HTTPException: _answer_no_route})
    app.router.redirect_slashes = False
    return app


async def _answer_no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path[:100]
    if error.status_code == 405:
        wrong = UserError(f"{path} does not answer {method[:20]}.", code="method_not_allowed")
        response = error_response(wrong)
        response.headers.update(error.headers or {})
        return response
    return error_response(
        NotFoundError(
            f"There is no {method[:20]} {path} on this server: a newer or older part of the Tinker protocol "
            "that is not implemented here.",
            code="route_not_found",
        )
    )
