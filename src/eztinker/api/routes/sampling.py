"""``POST /v1/sample``: whose weights answer, and the sampling job."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from eztinker.api import prompts
from eztinker.api.deps import ServiceDep, SubmissionDep, Wait, body_of
from eztinker.api.openapi import takes
from eztinker.api.submit import submit
from eztinker.errors import InvalidRequestError
from eztinker.ids import check_reference
from eztinker.models.answers import JobSubmittedAnswer
from eztinker.models.api import SampleRequest
from eztinker.types.sampling import WeightsRef

router = APIRouter(tags=["sampling"])

SampleBody = Annotated[SampleRequest, Depends(body_of(SampleRequest))]


@router.post("/v1/sample", response_model=JobSubmittedAnswer, **takes(SampleRequest))
@router.post("/sample", response_model=JobSubmittedAnswer, **takes(SampleRequest))
async def sample(
    body: SampleBody, submission: SubmissionDep, service: ServiceDep, wait: Wait = None
) -> Response:
    """Continue a prompt with a run's current weights, a checkpoint, or a base model."""
    weights = await _weights(body, service)
    base = await service.base_models.resolve(weights.base_model)
    tokenizer = await service.base_models.tokenizer(weights.base_model)
    operation = await asyncio.to_thread(
        prompts.sample,
        body,
        weights=weights,
        base=base,
        tokenizer=tokenizer,
        seed=prompts.chosen_seed(body.seed, submission.idempotency_key),
    )
    return await submit(
        service, operation, run_id=weights.run_id, submission=submission, wait_s=wait
    )


async def _weights(body: SampleRequest, service: ServiceDep) -> WeightsRef:
    if body.run_id is None:
        if body.checkpoint is not None:
            raise InvalidRequestError(
                "checkpoint: given without run_id. Name the run that the checkpoint belongs to.",
                field="checkpoint",
            )
        return WeightsRef(body.base_model or await default_model(service))
    if body.base_model is not None:
        raise InvalidRequestError(
            "base_model: given beside run_id, which has a base model already. Send one of them.",
            field="base_model",
        )
    run_id = check_reference(body.run_id, field="run_id")
    if body.checkpoint is None:
        return WeightsRef((await service.runs.known(run_id)).base_model, run_id)
    name = check_reference(body.checkpoint, field="checkpoint")
    checkpoint = await service.checkpoints.get(run_id, name)
    return WeightsRef(checkpoint.base_model, run_id, name)


async def default_model(service: ServiceDep) -> str:
    """Name of the base model that answers when a request names none."""
    newest, _ = await service.runs.list(limit=1, offset=0, base_model=None)
    return service.base_models.default_model(newest[0].base_model if newest else None)
