"""``/v1/models``: what can be sampled, in OpenAI's shape; and the tokenizer files of base models."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from starlette.responses import Response

from eztinker.api.answers import json_response
from eztinker.api.deps import ServiceDep
from eztinker.models.answers import ModelsAnswer, TokenizerAnswer
from eztinker.types.records import BaseModelRecord, CheckpointRecord, RunRecord
from eztinker.types.sampling import WeightsRef

router = APIRouter(tags=["models"])

OWNER = "eztinker"


@router.get("/v1/models", response_model=ModelsAnswer)
async def list_models(request: Request, service: ServiceDep) -> Response:
    """Base models, runs and checkpoints that can be sampled; ``default`` names the default base model."""
    most = service.config.limits.max_runs
    runs, _ = await service.runs.list(limit=most, offset=0, base_model=None)
    checkpoints = await service.checkpoints.list(run_id=None)
    known = await asyncio.to_thread(service.base_models.known)
    # A base model has no date of its own; clients of OpenAI's shape expect a number.
    since_s = int(request.app.state.created_at_s)
    data = [
        *(_base_fields(base, since_s) for base in known),
        *(_run_fields(run) for run in runs if run.status == "ready"),
        *(_checkpoint_fields(checkpoint) for checkpoint in checkpoints),
    ]
    default = service.base_models.default_model(runs[0].base_model if runs else None)
    return json_response({"object": "list", "data": data, "default": default})


def _entry(model_id: str, kind: str, created_at_s: float, **extra: Any) -> dict[str, Any]:
    fields = {"id": model_id, "object": "model", "created": int(created_at_s), "owned_by": OWNER}
    return {**fields, "kind": kind, **extra}


def _base_fields(base: BaseModelRecord, since_s: int) -> dict[str, Any]:
    return _entry(
        base.name,
        "base_model",
        since_s,
        base_model=base.name,
        architecture=base.architecture,
        context_length=base.context_length,
        vocab_size=base.vocab_size,
    )


def _run_fields(run: RunRecord) -> dict[str, Any]:
    return _entry(run.run_id, "run", run.created_at_s, base_model=run.base_model, step=run.step)


def _checkpoint_fields(checkpoint: CheckpointRecord) -> dict[str, Any]:
    return _entry(
        f"{checkpoint.run_id}@{checkpoint.name}",
        "checkpoint",
        checkpoint.created_at_s,
        base_model=checkpoint.base_model,
        run_id=checkpoint.run_id,
        checkpoint=checkpoint.name,
        step=checkpoint.step,
    )


async def model_fields(
    request: Request, service: ServiceDep, name: str, weights: WeightsRef
) -> dict[str, Any]:
    """The entry of one model, under the name that was asked for."""
    if weights.run_id is None:
        base = await service.base_models.resolve(weights.base_model)
        fields = _base_fields(base, int(request.app.state.created_at_s))
    elif weights.checkpoint is None:
        fields = _run_fields(await service.runs.get(weights.run_id))
    else:
        fields = _checkpoint_fields(
            await service.checkpoints.get(weights.run_id, weights.checkpoint)
        )
    return {**fields, "id": name}


@router.get("/v1/base_models/{name:path}/tokenizer", response_model=TokenizerAnswer)
async def get_tokenizer(
    name: Annotated[str, PathParameter(description="A base model's name; may contain slashes.")],
    service: ServiceDep,
) -> Response:
    """The tokenizer files of a base model as texts, so that a client needs no hub.

    Write each entry of ``files`` into one folder and load the tokenizer from there.
    """
    tokenizer = await service.base_models.tokenizer(name)
    files = await asyncio.to_thread(_texts, tokenizer.files())
    return json_response({"model": name, "encoding": "utf-8", "files": files})


def _texts(paths: list[Path]) -> dict[str, str]:
    # newline="": the text must have the bytes of the file, also of one with Windows line ends.
    texts = {}
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            texts[path.name] = file.read()
    return texts
