"""The application: routes, error handlers and documents around one service.

Knows which routers there are and nothing of what they do; starts no server process (``launch.py``).
The Tinker wire is an application of its own below
``/api/v1``: its answers, statuses and bodies follow another protocol.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eztinker.api import docs, errors
from eztinker.api.deps import refuse_unknown_query
from eztinker.api.gate import AnswerError, Gate
from eztinker.api.middleware import RequestFrame
from eztinker.api.openai.errors import error_response as openai_error_response
from eztinker.api.openapi import DESCRIPTION, ERROR_RESPONSES, describe
from eztinker.api.routes import (
    checkpoints,
    health,
    imports,
    jobs,
    keys,
    models,
    openai,
    runs,
    sampling,
    training,
)
from eztinker.api.routes.tinker.app import create_tinker_app
from eztinker.api.tinker.endpoint import PREFIX as TINKER_PREFIX
from eztinker.api.tinker.errors import error_response as tinker_error_response
from eztinker.errors import EZTinkerError

if TYPE_CHECKING:
    from eztinker.service.service import Service

ROUTERS = (
    health.router,
    imports.router,
    runs.router,
    training.router,
    sampling.router,
    checkpoints.router,
    jobs.router,
    models.router,
    openai.router,
    keys.router,
    docs.router,
)

_OPENAI_PREFIXES = (  # where OpenAI's clients call
    "/oai/",
    "/v1/chat/",
    "/v1/completions",
    "/v1/models/",
    # not here:
    "/v1/assistants",
    "/v1/audio/",
    "/v1/batches",
    "/v1/embeddings",
    "/v1/files",
    "/v1/fine_tuning/",
    "/v1/images/",
    "/v1/moderations",
    "/v1/responses",
    "/v1/threads",
)
_REFUSALS: dict[str, AnswerError] = {
    TINKER_PREFIX: lambda error, _: tinker_error_response(error),
    **dict.fromkeys(_OPENAI_PREFIXES, lambda error, _: openai_error_response(error)),
}
"""How the gate refuses below a prefix; elsewhere as on the native wire."""

OPENAI_ROUTERS = (health.router, models.router, openai.router, docs.router)
"""Of a server that answers OpenAI's clients only."""


def create_app(service: Service, *, only_openai: bool = False) -> FastAPI:
    """The HTTP application over a service that someone else starts and stops.

    Args:
        only_openai: leave out training, the native API and the Tinker wire.
    """
    routers = OPENAI_ROUTERS if only_openai else ROUTERS
    app = FastAPI(
        title="EZTinker",
        version=version("eztinker"),
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,  # FastAPI's page loads its script from the internet; docs.py has ours
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(refuse_unknown_query)],
        responses=ERROR_RESPONSES,
    )
    app.state.service = service
    app.state.created_at_s = time.time()
    # First, so that its requests, of which there are most, are not compared with all other routes.
    if not only_openai:
        app.mount(TINKER_PREFIX, create_tinker_app())
    app.state.routes = [r for router in routers for r in router.routes if isinstance(r, Route)]
    for router in routers:
        app.include_router(router)
    _describe_once(app)
    _handle_errors(app)
    app.add_middleware(Gate, routes=app.routes, answers=_REFUSALS)
    app.add_middleware(RequestFrame)
    return app


def _describe_once(app: FastAPI) -> None:
    """Make the document now: requests with a query are checked against it."""
    document = describe(app)
    app.openapi = lambda: document


def _handle_errors(app: FastAPI) -> None:
    app.add_exception_handler(EZTinkerError, errors.answer_error)
    app.add_exception_handler(RequestValidationError, errors.answer_invalid_parameters)
    app.add_exception_handler(HTTPException, _answer_no_route)


async def _answer_no_route(request: Request, error: Exception) -> Response:
    """Paths and methods that do not exist; OPTIONS on a path that does."""
    path, method = request.url.path, request.method
    routes: list[Route] = request.app.state.routes
    allowed = _methods_at(path, routes)
    if not allowed:
        known = sorted({route.path for route in routes})
        return _refusal(request, errors.unknown_route(method, path, known))
    if method == "OPTIONS":
        response = Response(status_code=204)
    else:
        response = _refusal(request, errors.wrong_method(method, path, allowed))
    response.headers["Allow"] = ", ".join(allowed)
    return response


def _refusal(request: Request, error: EZTinkerError) -> Response:
    if request.url.path.startswith(_OPENAI_PREFIXES):
        return openai_error_response(error)
    return errors.error_response(error, request.state.request_id)


def _methods_at(path: str, routes: list[Route]) -> list[str]:
    methods = {m for route in routes if route.path_regex.match(path) for m in route.methods or ()}
    if "GET" in methods:
        methods.add("HEAD")  # middleware.py answers it
    return sorted({*methods, "OPTIONS"}) if methods else []
