"""``/v1/runs``: creating, listing, showing and deleting runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from eztinker.api import convert
from eztinker.api.answers import json_response, log_fields, run_fields
from eztinker.api.deps import MAX_OFFSET, Limit, Offset, RunId, ServiceDep, SubmissionDep, body_of
from eztinker.api.openapi import takes
from eztinker.ids import check_name
from eztinker.models.answers import (
    LogAnswer,
    RunAnswer,
    RunCreatedAnswer,
    RunDeletedAnswer,
    RunsAnswer,
)
from eztinker.models.api import CreateTrainingRunRequest

router = APIRouter(tags=["runs"])

CreateBody = Annotated[CreateTrainingRunRequest, Depends(body_of(CreateTrainingRunRequest))]


@router.post("/v1/runs", response_model=RunCreatedAnswer, **takes(CreateTrainingRunRequest))
async def create_run(body: CreateBody, submission: SubmissionDep, service: ServiceDep) -> Response:
    """Make a run: a LoRA adapter with its optimizer, on a base model. Answers when the adapter exists."""
    if body.run_id is not None:
        check_name(body.run_id, field="run_id")
    run = await service.runs.create(
        base_model=body.base_model,
        lora=convert.lora_config(body.lora_config),
        loss=convert.run_loss(body.loss_config),
        run_id=body.run_id,
        seed=body.seed,
        quantization=body.quantization,
        idempotency_key=submission.idempotency_key,
        request_digest=submission.request_digest,
    )
    message = f"Run {run.run_id} on {run.base_model} is ready: rank {run.lora.r}."
    return json_response({"run_id": run.run_id, "status": "created", "message": message})


@router.get("/v1/runs", response_model=RunsAnswer)
async def list_runs(
    service: ServiceDep,
    limit: Limit = 100,
    offset: Offset = 0,
    base_model: Annotated[str | None, Query(min_length=1, max_length=4096)] = None,
) -> Response:
    """Runs, newest first."""
    runs, total = await service.runs.list(limit=limit, offset=offset, base_model=base_model)
    return json_response({"runs": [run_fields(run) for run in runs], "total": total})


@router.get("/v1/runs/{run_id}", response_model=RunAnswer)
async def get_run(run_id: RunId, service: ServiceDep) -> Response:
    """One run."""
    return json_response(run_fields(await service.runs.get(run_id)))


@router.get("/v1/runs/{run_id}/log", response_model=LogAnswer)
async def get_log(
    run_id: RunId,
    service: ServiceDep,
    limit: Limit = 100,
    after: Annotated[
        int, Query(ge=-1, le=MAX_OFFSET, description="The last number already seen.")
    ] = -1,
) -> Response:
    """What a run has done, oldest first; sampling is no part of it, since it changes nothing."""
    entries = await service.jobs.log(run_id, after_seq=after, limit=limit)
    return json_response({"entries": [log_fields(entry) for entry in entries]})


@router.delete("/v1/runs/{run_id}", response_model=RunDeletedAnswer)
async def delete_run(run_id: RunId, service: ServiceDep) -> Response:
    """Cancel a run's jobs and forget it."""
    await service.runs.delete(run_id)
    return json_response({"status": "deleted", "run_id": run_id})
