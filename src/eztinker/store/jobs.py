"""Rows of ``jobs``: reading them.

What changes them stands in ``log.py``. Functions over an open connection, called inside
``Database.write`` or ``read``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import sqlalchemy as sa

from eztinker.errors import NotFoundError
from eztinker.store.tables import jobs
from eztinker.types import codec
from eztinker.types.error_info import ErrorInfo
from eztinker.types.operations import OPERATION_TYPES, RESULT_TYPES, STATE_KINDS, Operation, Result
from eztinker.types.plans import PassPlan
from eztinker.types.principal import LOCAL_OWNER
from eztinker.types.records import JobRecord, JobSpan


@dataclass(frozen=True, slots=True, eq=False)
class StoredJob:
    """A job as it lies in the database; payload and result are decoded on demand."""

    number: int
    job_id: str
    run_id: str | None
    seq: int | None
    kind: str
    status: Any
    created_at_s: float
    started_at_s: float | None
    finished_at_s: float | None
    payload: bytes | None
    result: bytes | None
    error: ErrorInfo | None
    plan: PassPlan | None
    num_deaths: int
    compute_s: float
    owner: str = LOCAL_OWNER

    def operation(self) -> Operation:
        """The operation; only while its payload is kept."""
        if self.payload is None:
            raise ValueError(f"payload of {self.job_id} was dropped")
        return codec.decode(self.payload, OPERATION_TYPES[self.kind])

    def decoded_result(self) -> Result | None:
        """The answer, if it ended well."""
        return None if self.result is None else codec.decode(self.result, RESULT_TYPES[self.kind])

    def record(self) -> JobRecord:
        """What the API shows of it."""
        return JobRecord(
            job_id=self.job_id,
            run_id=self.run_id,
            seq=self.seq,
            kind=self.kind,
            status=self.status,
            created_at_s=self.created_at_s,
            started_at_s=self.started_at_s,
            finished_at_s=self.finished_at_s,
            result=self.decoded_result(),
            error=self.error,
            owner=self.owner,
        )


_SPAN = tuple(field.name for field in fields(JobSpan))


def get_job(connection: sa.Connection, job_id: str) -> StoredJob:
    """The job.

    Raises:
        NotFoundError: code ``job_not_found``.
    """
    row = connection.execute(sa.select(jobs).where(jobs.c.job_id == job_id)).one_or_none()
    if row is None:
        raise not_found(job_id)
    return stored_job(row)


def not_found(job_id: str) -> NotFoundError:
    """What is said of a job that does not exist, or not for the one who asks."""
    return NotFoundError(
        f"There is no job {job_id!r}. GET /v1/jobs (or `eztinker jobs list`) lists them.",
        code="job_not_found",
        field="job_id",
    )


def list_jobs(
    connection: sa.Connection,
    *,
    run_id: str | None,
    status: str | None,
    limit: int,
    offset: int,
    owner: str | None = None,
) -> tuple[list[StoredJob], int]:
    """One page of jobs, of one owner or of all, newest first, and how many there are in all.

    ``status`` ``running`` is not known here: a running job is a queued one that the engine has taken.
    """
    query = sa.select(jobs)
    if owner is not None:
        query = query.where(jobs.c.owner == owner)
    if run_id is not None:
        query = query.where(jobs.c.run_id == run_id)
    if status is not None:
        query = query.where(jobs.c.status == status)
    total = connection.scalar(sa.select(sa.func.count()).select_from(query.subquery()))
    page = query.order_by(jobs.c.number.desc()).limit(limit).offset(offset)
    return [stored_job(row) for row in connection.execute(page)], total or 0


def list_log(
    connection: sa.Connection, run_id: str, *, after_seq: int, limit: int
) -> list[StoredJob]:
    """A run's numbered operations that have ended, in order, after ``after_seq``; no payloads, no plans."""
    columns = [
        sa.null().label(column.name) if column.name in ("payload", "plan") else column
        for column in jobs.c
    ]
    query = (
        sa.select(*columns)
        .where((jobs.c.run_id == run_id) & (jobs.c.seq > after_seq))
        .where(jobs.c.finished_at_s.is_not(None))
        .order_by(jobs.c.seq)
        .limit(limit)
    )
    return [stored_job(row) for row in connection.execute(query)]


def list_unfinished(connection: sa.Connection) -> list[StoredJob]:
    """Jobs that were accepted and have not ended, in order of arrival."""
    query = sa.select(jobs).where(jobs.c.finished_at_s.is_(None)).order_by(jobs.c.number)
    return [stored_job(row) for row in connection.execute(query)]


def list_replayable(connection: sa.Connection, run_id: str, *, after_seq: int) -> list[StoredJob]:
    """A run's completed operations that changed its state, in order, after ``after_seq``."""
    query = (
        sa.select(jobs)
        .where((jobs.c.run_id == run_id) & (jobs.c.seq > after_seq))
        .where((jobs.c.status == "completed") & jobs.c.kind.in_(STATE_KINDS))
        .order_by(jobs.c.seq)
    )
    return [stored_job(row) for row in connection.execute(query)]


def list_of_sampler(
    connection: sa.Connection, scopes: Collection[str], sampler_id: str
) -> list[tuple[str, int, str]]:
    """Id, the client's number, and status of the jobs of one sampler, in order of arrival.

    Their idempotency keys are ``<sampler_id>/<number>``, so the range of keys finds them by its index.

    Args:
        scopes: idempotency scopes that they may have.
        sampler_id: whose jobs.
    """
    first = f"{sampler_id}/"
    query = (
        sa.select(jobs.c.job_id, jobs.c.idempotency_key, jobs.c.status)
        .where(jobs.c.idempotency_scope.in_(scopes))
        .where(jobs.c.idempotency_key.between(first, f"{sampler_id}0"))
        .order_by(jobs.c.number)
    )
    numbered = (
        (row.job_id, row.idempotency_key.removeprefix(first), row.status)
        for row in connection.execute(query)
    )
    return [(job_id, int(text), status) for job_id, text, status in numbered if text.isdecimal()]


def list_spans(
    connection: sa.Connection, run_ids: list[str], sampler_ids: list[str]
) -> list[JobSpan]:
    """Times of the ended jobs of runs, and of those of samplers that belong to no run, oldest first."""
    lane = sa.func.coalesce(
        jobs.c.run_id,
        sa.func.substr(jobs.c.idempotency_key, 1, sa.func.instr(jobs.c.idempotency_key, "/") - 1),
    ).label("lane")
    columns = [jobs.c[name] for name in _SPAN if name != "lane"]
    query = (
        sa.select(lane, *columns)
        .where(lane.in_([*run_ids, *sampler_ids]) & jobs.c.finished_at_s.is_not(None))
        .order_by(jobs.c.number)
    )
    return [JobSpan(**row._mapping) for row in connection.execute(query)]


def newest_arrivals(connection: sa.Connection, run_ids: list[str]) -> dict[str, float]:
    """When the newest job of each run arrived, in seconds since the epoch."""
    query = (
        sa.select(jobs.c.run_id, sa.func.max(jobs.c.created_at_s))
        .where(jobs.c.run_id.in_(run_ids))
        .group_by(jobs.c.run_id)
    )
    return {row[0]: row[1] for row in connection.execute(query) if row[0]}


def stored_job(row: Any) -> StoredJob:
    """A row of ``jobs`` as an object."""
    return StoredJob(
        number=row.number,
        job_id=row.job_id,
        run_id=row.run_id,
        seq=row.seq,
        kind=row.kind,
        status=row.status,
        created_at_s=row.created_at_s,
        started_at_s=row.started_at_s,
        finished_at_s=row.finished_at_s,
        payload=row.payload,
        result=row.result,
        error=msgspec.json.decode(row.error_json, type=ErrorInfo) if row.error_json else None,
        plan=codec.decode(row.plan, PassPlan) if row.plan else None,
        num_deaths=row.num_deaths,
        compute_s=row.compute_s,
        owner=row.owner,
    )
