"""``jobs list | show | cancel``: accepted operations and their results."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from eztinker.cli.options import ApiKey, AsJson, BaseUrl, connect
from eztinker.cli.output import note, print_json, print_table
from eztinker.cli.texts import say

app = typer.Typer(no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="JOB_ID", show_default=False)]
Status = Literal["queued", "running", "completed", "failed", "cancelled"]


@app.command("list", help=say("jobs list"))
def list_jobs(
    run_id: Annotated[str | None, typer.Option("--run-id", help=say("jobs run-id"))] = None,
    status: Annotated[Status | None, typer.Option("--status", help=say("jobs status"))] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help=say("jobs limit"))] = 20,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print a table, newest first."""
    with connect(base_url, api_key) as client:
        jobs = client.get_jobs(run_id, status, limit)
    if as_json:
        print_json({"jobs": jobs})
    elif jobs:
        columns = ("Job ID", "Run ID", "Kind", "Status", "Created", "Note")
        print_table(columns, [_row(job) for job in jobs])
    else:
        note(say("no jobs"))


def _row(job: dict) -> tuple[str, ...]:
    remark = job.get("wait_reason") or (job.get("error") or {}).get("message") or ""
    return (
        job["job_id"],
        job["run_id"] or "-",
        job["kind"],
        job["status"],
        job["created_at"],
        remark,
    )


@app.command(help=say("jobs show"))
def show(
    job_id: JobId, base_url: BaseUrl = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Print one job; its result can be long."""
    with connect(base_url, api_key) as client:
        job = client.get_job(job_id)
    if as_json:
        print_json(job)
    else:
        rows = [(key, value) for key, value in job.items() if value is not None]
        print_table(("Job", ""), rows)


@app.command(help=say("jobs cancel"))
def cancel(job_id: JobId, base_url: BaseUrl = None, api_key: ApiKey = None) -> None:
    """Cancel a job; one that has ended stays as it is."""
    with connect(base_url, api_key) as client:
        job = client.cancel_job(job_id)
    note(say("cancelled", job_id=job_id, status=job["status"]))
