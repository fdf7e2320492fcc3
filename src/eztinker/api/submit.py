"""Submitting a job and showing it: what every route that makes or names a job has in common.

Knows jobs but no resource's fields. Called by the routes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from eztinker.api.answers import job_summary, json_response, result_fields
from eztinker.api.deps import Submission
from eztinker.types.operations import Operation, Sample, SampleResult
from eztinker.types.records import FINAL_STATUSES, JobRecord

if TYPE_CHECKING:
    from eztinker.service.service import Service


async def submit(
    service: Service,
    operation: Operation,
    *,
    run_id: str | None,
    submission: Submission,
    wait_s: float | None,
) -> Response:
    """Have an operation accepted, hold the answer for a while, and answer.

    Args:
        wait_s: how long to hold; None takes the server's default.
    """
    job = await service.submissions.submit(
        operation,
        run_id=run_id,
        idempotency_key=submission.idempotency_key,
        request_digest=submission.request_digest,
    )
    wait_s = service.config.default_wait_s if wait_s is None else wait_s
    if wait_s > 0 and job.status not in FINAL_STATUSES:
        job = await service.jobs.wait(job.job_id, wait_s)
    fields = job_summary(job)
    answer: dict[str, Any] = {"job_id": job.job_id, "status": job.status}
    if job.result is not None:
        answer["result"] = await _result(service, job, operation)
    if job.error is not None:
        answer["error"] = fields["error"]
    return json_response(answer)


async def job_fields(service: Service, job: JobRecord) -> dict[str, Any]:
    """A job with its result."""
    operation = None
    if isinstance(job.result, SampleResult):
        operation = await service.jobs.operation(job.job_id)
    result = None if job.result is None else await _result(service, job, operation)
    return {**job_summary(job), "result": result}


async def _result(
    service: Service, job: JobRecord, operation: Operation | None
) -> dict[str, Any] | None:
    if job.result is None:
        return None
    if not isinstance(operation, Sample):
        return result_fields(job.result)
    tokenizer = await service.base_models.tokenizer(operation.weights.base_model)
    # Decoding hundreds of long answers takes longer than a health check may.
    return await asyncio.to_thread(result_fields, job.result, operation, tokenizer)
