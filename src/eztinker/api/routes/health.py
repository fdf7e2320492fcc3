"""``GET /health``: whether the server answers, and how its engine is. Never waits for anything."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from eztinker.api.answers import iso_time, json_response
from eztinker.api.deps import ServiceDep
from eztinker.models.answers import HealthAnswer

router = APIRouter(tags=["health"])


@router.get("/health", response_model=HealthAnswer)
async def health(request: Request, service: ServiceDep) -> Response:
    """Whether the server answers, its version, and the state of its engine."""
    own = {"status": "ok", "version": request.app.version, "timestamp": iso_time(time.time())}
    return json_response({**service.health(), **own})
