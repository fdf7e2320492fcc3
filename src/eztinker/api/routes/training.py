"""Training a run: passes, optimizer steps, evaluation; also the short forms with the run in the body."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from eztinker.api import convert
from eztinker.api.deps import RunId, ServiceDep, SubmissionDep, Wait, body_of
from eztinker.api.openapi import takes
from eztinker.api.prompts import chosen_seed
from eztinker.api.submit import submit
from eztinker.ids import check_reference
from eztinker.models.answers import JobSubmittedAnswer
from eztinker.models.api import (
    EvaluationRequest,
    OptimStepRequest,
    RunOptimStepRequest,
    RunTrainingRequest,
    TrainingRequest,
)
from eztinker.types.operations import OptimStep

router = APIRouter(tags=["training"])

PassBody = Annotated[TrainingRequest, Depends(body_of(TrainingRequest))]
RunPassBody = Annotated[RunTrainingRequest, Depends(body_of(RunTrainingRequest))]
StepBody = Annotated[OptimStepRequest, Depends(body_of(OptimStepRequest))]
RunStepBody = Annotated[RunOptimStepRequest, Depends(body_of(RunOptimStepRequest))]
EvaluationBody = Annotated[EvaluationRequest, Depends(body_of(EvaluationRequest))]


@router.post(
    "/v1/runs/{run_id}/forward_backward",
    response_model=JobSubmittedAnswer,
    **takes(TrainingRequest),
)
async def forward_backward(
    run_id: RunId, body: PassBody, submission: SubmissionDep, service: ServiceDep, wait: Wait = None
) -> Response:
    """Compute the loss and add its gradient to the run's."""
    return await _pass(run_id, body, submission, service, wait, forward_only=False)


@router.post("/v1/forward_backward", response_model=JobSubmittedAnswer, **takes(RunTrainingRequest))
async def forward_backward_short(
    body: RunPassBody, submission: SubmissionDep, service: ServiceDep, wait: Wait = None
) -> Response:
    """The same with the run in the body."""
    run_id = check_reference(body.run_id, field="run_id")
    return await _pass(run_id, body, submission, service, wait, forward_only=False)


@router.post(
    "/v1/runs/{run_id}/forward", response_model=JobSubmittedAnswer, **takes(TrainingRequest)
)
async def forward(
    run_id: RunId, body: PassBody, submission: SubmissionDep, service: ServiceDep, wait: Wait = None
) -> Response:
    """Compute the loss without a gradient."""
    return await _pass(run_id, body, submission, service, wait, forward_only=True)


async def _pass(
    run_id: str,
    body: TrainingRequest,
    submission: SubmissionDep,
    service: ServiceDep,
    wait: float | None,
    *,
    forward_only: bool,
) -> Response:
    run = await service.runs.known(run_id)
    base = await service.base_models.resolve(run.base_model)
    operation = convert.training_pass(
        body,
        default_loss=run.loss,
        base=base,
        limits=service.config.limits,
        forward_only=forward_only,
    )
    return await submit(service, operation, run_id=run_id, submission=submission, wait_s=wait)


@router.post(
    "/v1/runs/{run_id}/optim_step",
    response_model=JobSubmittedAnswer,
    **takes(OptimStepRequest, required=False),
)
async def optim_step(
    run_id: RunId, body: StepBody, submission: SubmissionDep, service: ServiceDep, wait: Wait = None
) -> Response:
    """Apply the accumulated gradient with AdamW and clear it."""
    operation = OptimStep(convert.adam_params(body))
    return await submit(service, operation, run_id=run_id, submission=submission, wait_s=wait)


@router.post("/v1/optim_step", response_model=JobSubmittedAnswer, **takes(RunOptimStepRequest))
async def optim_step_short(
    body: RunStepBody, submission: SubmissionDep, service: ServiceDep, wait: Wait = None
) -> Response:
    """The same with the run in the body."""
    run_id = check_reference(body.run_id, field="run_id")
    operation = OptimStep(convert.adam_params(body))
    return await submit(service, operation, run_id=run_id, submission=submission, wait_s=wait)


@router.post(
    "/v1/runs/{run_id}/evaluate", response_model=JobSubmittedAnswer, **takes(EvaluationRequest)
)
async def evaluate(
    run_id: RunId,
    body: EvaluationBody,
    submission: SubmissionDep,
    service: ServiceDep,
    wait: Wait = None,
) -> Response:
    """Mean loss and log-probability of responses under the run's current weights."""
    run = await service.runs.known(run_id)
    base = await service.base_models.resolve(run.base_model)
    seed = chosen_seed(body.seed, submission.idempotency_key)
    operation = convert.evaluation(body, base=base, limits=service.config.limits, seed=seed)
    return await submit(service, operation, run_id=run_id, submission=submission, wait_s=wait)
