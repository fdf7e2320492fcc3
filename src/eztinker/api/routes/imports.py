"""``POST /v1/runs/import``: a PEFT adapter becomes a run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from eztinker.api.answers import json_response
from eztinker.api.deps import IdempotencyKey, ServiceDep
from eztinker.api.uploads import CONTENT_TYPE, receive_files
from eztinker.errors import InvalidRequestError
from eztinker.models.answers import RunCreatedAnswer
from eztinker.types.training import Quantization

router = APIRouter(tags=["runs"])

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("/v1/runs/import", response_model=RunCreatedAnswer, openapi_extra=_BODY)
async def import_run(
    request: Request,
    service: ServiceDep,
    base_model: Annotated[
        str | None,
        Query(min_length=1, max_length=4096, description="Omitted: what the adapter names."),
    ] = None,
    run_id: Annotated[str | None, Query(description="A name of your own.")] = None,
    quantization: Annotated[Quantization, Query(description="Of the base model.")] = "none",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Make a run that begins with a LoRA adapter in PEFT's layout: a tar archive of its two files.

    Its checkpoint ``imported`` keeps the adapter as it came. Answers when the run can be trained and sampled.
    """
    async with service.imports.inbox() as folder:
        digest = await receive_files(
            request,
            folder,
            names=(CONFIG, WEIGHTS),
            max_bytes=service.config.limits.max_import_bytes,
        )
        named = base_model or await asyncio.to_thread(_named_base, folder / CONFIG)
        run = await service.imports.create(
            folder,
            base_model=named,
            run_id=run_id,
            quantization=quantization,
            idempotency_key=idempotency_key,
            request_digest=f"import {digest} {named} {run_id} {quantization}",
        )
    message = f"Run {run.run_id} on {run.base_model} begins with the adapter: rank {run.lora.r}."
    return json_response({"run_id": run.run_id, "status": "created", "message": message})


def _named_base(path: Path) -> str:
    try:
        named = json.loads(path.read_bytes()).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise InvalidRequestError(
            f"{CONFIG} cannot be read: {error}.", code="damaged_file"
        ) from None
    if not isinstance(named, str) or not named:
        raise InvalidRequestError(
            "base_model: missing, and the adapter names none. Send ?base_model=….",
            field="base_model",
        )
    return named
