"""``/docs`` and ``/openapi.json``: the API described, readable and to be tried without the internet.

The page is three small files of our own in ``static/``; it reads the document and draws the rest. It
shows answers as text only: what a model wrote never becomes markup.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from eztinker.api.answers import json_response

router = APIRouter(include_in_schema=False)

_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@lru_cache
def _text(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


@router.get("/docs")
async def page() -> Response:
    """The page."""
    return Response(_text("docs.html"), media_type="text/html", headers=_HEADERS)


@router.get("/docs/docs.js")
async def script() -> Response:
    """Its script."""
    return Response(_text("docs.js"), media_type="text/javascript", headers=_HEADERS)


@router.get("/docs/docs.css")
async def style() -> Response:
    """Its style."""
    return Response(_text("docs.css"), media_type="text/css", headers=_HEADERS)


@router.get("/openapi.json")
async def document(request: Request) -> Response:
    """The OpenAPI document."""
    return json_response(request.app.openapi())
