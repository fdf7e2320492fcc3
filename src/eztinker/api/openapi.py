"""The OpenAPI document: what FastAPI finds out by itself, and the bodies that we parse ourselves.

A route says ``**takes(Model)``; the schemas of all request models are added here. Served at
``/openapi.json`` and read by ``/docs``.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from eztinker.models import api as wire
from eztinker.models import openai as openai_wire
from eztinker.models.answers import ErrorAnswer

REF_TEMPLATE = "#/components/schemas/{model}"

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorAnswer, "description": "The caller can mend it; nothing changed."},
    "5XX": {"model": ErrorAnswer, "description": "Ours to mend, or no room now."},
}
DESCRIPTION = (
    "Training, sampling and evaluation of language models with LoRA adapters. A POST that makes a job "
    "answers `{job_id, status}` and, when the job has ended within `?wait=` seconds, its `result`. Every "
    "POST takes an `Idempotency-Key` header: the same key again answers with the same job. Unknown "
    "fields are refused by name."
)


def takes(model: type[wire.WireModel], *, required: bool = True) -> dict[str, Any]:
    """Keyword arguments for a route whose body is ``model``."""
    schema = {"$ref": REF_TEMPLATE.format(model=model.__name__)}
    content = {"application/json": {"schema": schema}}
    return {"openapi_extra": {"requestBody": {"required": required, "content": content}}}


def describe(app: FastAPI) -> dict[str, Any]:
    """The document of all routes of ``app``."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    bodies = {**vars(wire), **vars(openai_wire)}
    models = [model for name, model in bodies.items() if _is_body(model) and name[0] != "_"]
    _, schemas = models_json_schema(
        [(model, "validation") for model in models], ref_template=REF_TEMPLATE
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    return document


def _is_body(model: Any) -> bool:
    return (
        isinstance(model, type)
        and issubclass(model, wire.WireModel)
        and model is not wire.WireModel
    )
