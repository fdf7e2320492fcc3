"""``/v1/jobs``: showing, waiting for, listing and cancelling jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from eztinker.api.answers import job_summary, json_response
from eztinker.api.deps import JobId, Limit, Offset, ServiceDep, Wait
from eztinker.api.submit import job_fields
from eztinker.ids import check_reference
from eztinker.models.answers import JobAnswer, JobsAnswer
from eztinker.types.records import JobStatus

router = APIRouter(tags=["jobs"])


@router.get("/v1/jobs/{job_id}", response_model=JobAnswer)
async def get_job(job_id: JobId, service: ServiceDep, wait: Wait = None) -> Response:
    """One job; with ``wait``, the answer comes when the job ends or the time is up."""
    job = await service.jobs.wait(job_id, wait) if wait else await service.jobs.get(job_id)
    return json_response(await job_fields(service, job))


@router.get("/v1/jobs", response_model=JobsAnswer)
async def list_jobs(
    service: ServiceDep,
    run_id: Annotated[str | None, Query()] = None,
    status: Annotated[JobStatus | None, Query()] = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> Response:
    """Jobs, newest first, without their results."""
    if run_id is not None:
        check_reference(run_id, field="run_id")
    jobs, total = await service.jobs.list(run_id=run_id, status=status, limit=limit, offset=offset)
    return json_response({"jobs": [job_summary(job) for job in jobs], "total": total})


@router.delete("/v1/jobs/{job_id}", response_model=JobAnswer)
async def cancel_job(job_id: JobId, service: ServiceDep) -> Response:
    """Cancel a job; one that has ended stays as it is."""
    return json_response(await job_fields(service, await service.jobs.cancel(job_id)))
