"""What a key must allow for each route. The only place that says so.

A route that does not stand here is for ``admin`` alone, and a test fails: so a new route is closed until
someone has thought about it. Every valid key may read; what it reads is its owner's only. Knows nothing
of keys. Called by ``gate.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.routing import Mount

from eztinker.types.principal import Scope

Needed = tuple[Scope, ...]
"""One of these is enough; none at all: no key is needed."""

_OPEN: Needed = ()
_READ: Needed = ("read",)
_SAMPLE: Needed = ("sample",)
_TRAIN: Needed = ("train",)
_WORK: Needed = ("sample", "train")
_ADMIN: Needed = ("admin",)

_CHECKPOINT = "/api/v1/training_runs/{run_id}/checkpoints/{kind}/{name}"

NEEDED: dict[Needed, tuple[str, ...]] = {
    _OPEN: (
        "GET /health",
        "GET /docs",
        "GET /docs/docs.js",
        "GET /docs/docs.css",
        "GET /openapi.json",
        "GET /api/v1/healthz",
    ),
    _READ: (
        "GET /v1/runs",
        "GET /v1/runs/{run_id}",
        "GET /v1/runs/{run_id}/log",
        "GET /v1/runs/{run_id}/checkpoints",
        "GET /v1/runs/{run_id}/checkpoints/{name}/files",
        "GET /v1/runs/{run_id}/checkpoints/{name}/files/{file}",
        "GET /v1/checkpoints",
        "GET /v1/jobs",
        "GET /v1/jobs/{job_id}",
        "GET /v1/models",
        "GET /v1/models/{model:path}",
        "GET /oai/api/v1/models",
        "GET /oai/api/v1/models/{model:path}",
        "GET /v1/base_models/{name:path}/tokenizer",
        "POST /api/v1/client/config",
        "POST /api/v1/client/dynamic_config",
        "POST /api/v1/create_session",
        "POST /api/v1/session_heartbeat",
        "POST /api/v1/telemetry",
        "GET /api/v1/get_server_capabilities",
        "POST /api/v1/get_info",
        "POST /api/v1/retrieve_future",
        "POST /api/v1/retrieve_futures",
        "GET /api/v1/samplers/{sampler_id}",
        "GET /api/v1/training_runs",
        "GET /api/v1/training_runs/{run_id}",
        "GET /api/v1/training_runs/{run_id}/checkpoints",
        "GET /api/v1/checkpoints",
        "POST /api/v1/weights_info",
        "GET /api/v1/sessions",
        "POST /api/v1/sessions/search",
        "GET /api/v1/sessions/{session_id}",
        "GET /api/v1/sessions/{session_id}/trace_export",
        "GET /api/v1/sessions/{session_id}/trace.json",
        f"GET {_CHECKPOINT}/external_weights_urls",
        f"GET {_CHECKPOINT}/files/{{file}}",
        f"GET {_CHECKPOINT}/archive",
        f"GET {_CHECKPOINT}/archive.tar",
    ),
    _SAMPLE: (
        "POST /v1/sample",
        "POST /sample",
        "POST /v1/chat/completions",
        "POST /v1/completions",
        "POST /oai/api/v1/chat/completions",
        "POST /oai/api/v1/completions",
        "POST /api/v1/create_sampling_session",
        "POST /api/v1/join_sampling_session",
        "POST /api/v1/asample",
    ),
    _TRAIN: (
        "POST /v1/runs",
        "POST /v1/runs/import",
        "DELETE /v1/runs/{run_id}",
        "POST /v1/runs/{run_id}/forward_backward",
        "POST /v1/forward_backward",
        "POST /v1/runs/{run_id}/forward",
        "POST /v1/runs/{run_id}/optim_step",
        "POST /v1/optim_step",
        "POST /v1/runs/{run_id}/evaluate",
        "POST /v1/runs/{run_id}/save",
        "POST /v1/runs/{run_id}/load",
        "DELETE /v1/runs/{run_id}/checkpoints/{name}",
        "PATCH /v1/runs/{run_id}/checkpoints/{name}",
        "POST /v1/checkpoints/prune",
        "POST /api/v1/create_model",
        "POST /api/v1/load_weights",
        "POST /api/v1/unload_model",
        "POST /api/v1/forward_backward",
        "POST /api/v1/forward",
        "POST /api/v1/optim_step",
        "POST /api/v1/save_weights",
        "POST /api/v1/save_weights_for_sampler",
        "POST /api/v1/save_weights_external",
        "POST /api/v1/copy_weights",
        f"DELETE {_CHECKPOINT}",
        f"POST {_CHECKPOINT}/publish",
        f"DELETE {_CHECKPOINT}/publish",
        f"PUT {_CHECKPOINT}/ttl",
    ),
    _WORK: (
        "DELETE /v1/jobs/{job_id}",
        "POST /api/v1/cancel_future",
        "POST /api/v1/sessions/{session_id}/finish",
        "PUT /api/v1/sessions/{session_id}/project",
    ),
    _ADMIN: (
        "POST /v1/keys",
        "GET /v1/keys",
        "DELETE /v1/keys/{key_id}",
    ),
}
_NEEDED_BY_ROUTE = {route: needed for needed, routes in NEEDED.items() for route in routes}


def needed_for(route: str) -> Needed:
    """What a route (``GET /v1/runs``) asks of a key."""
    return _NEEDED_BY_ROUTE.get(route, _ADMIN)


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """One method of one path.

    Attributes:
        prefix: where the application that has the route is mounted.
        pattern: of the path behind the prefix.
    """

    method: str
    prefix: str
    path: str
    pattern: re.Pattern[str]

    def answers(self, method: str, path: str) -> bool:
        """Whether a request is for this route."""
        if method != self.method or not path.startswith(self.prefix):
            return False
        return self.pattern.match(path[len(self.prefix) :]) is not None

    def __str__(self) -> str:
        return f"{self.method} {self.prefix}{self.path}"


def list_routes(routes: Iterable[Any], prefix: str = "") -> Iterator[RouteEntry]:
    """Every route of an application, with those of the applications mounted in it."""
    for route in routes:
        if isinstance(route, Mount):
            yield from list_routes(route.routes or (), prefix + route.path)
        elif hasattr(route, "original_router"):  # FastAPI keeps an included router as a whole
            yield from list_routes(route.original_router.routes, prefix)
        else:
            for method in sorted(set(route.methods or ()) - {"HEAD"}):
                yield RouteEntry(method, prefix, route.path, route.path_regex)


class RouteTable:
    """Finds what a request needs, before any route has seen it."""

    def __init__(self, routes: Sequence[Any]) -> None:
        self._entries = [(entry, needed_for(str(entry))) for entry in list_routes(routes)]
        self._exact = {str(entry): needed for entry, needed in self._entries}

    def needed(self, method: str, path: str) -> Needed | None:
        """What the request needs; None when no route answers it."""
        exact = self._exact.get(f"{method} {path}")
        if exact is not None:
            return exact
        for entry, needed in self._entries:
            if entry.answers(method, path):
                return needed
        return None
