"""What the client asks about jobs that were accepted."""

from __future__ import annotations

from eztinker.client import answers
from eztinker.client.answers import Json
from eztinker.client.request import Request, segment


def get_job(job_id: str) -> Request[Json]:
    """A job as it is now, with its place in the queue and why it waits."""
    return Request("GET", f"/v1/jobs/{segment(job_id, 'job_id')}", answers.same)


def get_jobs(
    run_id: str | None = None, status: str | None = None, limit: int = 100
) -> Request[list[Json]]:
    """The newest jobs, without their results; of one run or status only if given."""
    params = {"run_id": run_id, "status": status, "limit": limit}
    return Request("GET", "/v1/jobs", answers.rows("jobs"), params)


def cancel_job(job_id: str) -> Request[Json]:
    """Ask the server to stop a job; the answer is the job as it is then."""
    return Request("DELETE", f"/v1/jobs/{segment(job_id, 'job_id')}", answers.same)
