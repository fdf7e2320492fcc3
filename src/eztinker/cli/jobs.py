"""``jobs list | show | cancel``: accepted operations and their results."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from eztinker.cli.options import ApiKey, AsJson, BaseUrl, connect
from eztinker.cli.output import note, print_json, print_table
from eztinker.cli.texts import say

app = typer.Typer(no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="JOB_ID", show_default=False)]
MAX_SHOWN_VALUES = 8

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
    """Print one job; long lists are counted, ``--json`` has them whole."""
    with connect(base_url, api_key) as client:
        job = client.get_job(job_id)
    if as_json:
        print_json(job)
    else:
        result = job.pop("result") or {}
        facts = {**job, **{f"result.{key}": value for key, value in result.items()}}
        print_table(("", ""), [(k, _brief(v)) for k, v in facts.items() if v is not None])


def _brief(value: Any) -> str:
    """A value in one cell: lists longer than a few are counted."""
    if isinstance(value, list) and len(value) > MAX_SHOWN_VALUES:
        return f"[{len(value)} values]"
    if isinstance(value, list):
        return f"[{', '.join(_brief(item) for item in value)}]"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_brief(item)}" for key, item in value.items())
    return str(value)


@app.command(help=say("jobs cancel"))
def cancel(job_id: JobId, base_url: BaseUrl = None, api_key: ApiKey = None) -> None:
    """Cancel a job; one that has ended stays as it is."""
    with connect(base_url, api_key) as client:
        job = client.cancel_job(job_id)
    note(say("cancelled", job_id=job_id, status=job["status"]))
