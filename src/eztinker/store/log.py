"""The log: operations are appended once, in order, and end once.

``append`` gives an operation its number in its run and makes it a job; ``finish`` records how it
ended, together with whatever that end changes elsewhere. A request that comes again (same
idempotency key) is answered with its first job. Functions over an open connection, called inside
``Database.write``.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from eztinker.errors import ConflictError, NotFoundError
from eztinker.store.jobs import StoredJob, get_job, stored_job
from eztinker.store.tables import jobs, runs
from eztinker.types import codec
from eztinker.types.messages import ErrorInfo, PassPlan
from eztinker.types.operations import Operation, kind_of


@dataclass(frozen=True, slots=True)
class Request:
    """An operation as it arrives, with its identity.

    Attributes:
        job_id: id to use if it is new.
        run_id: the run it belongs to; None for the bare base model.
        ordered: whether it takes a number in its run (everything but sampling).
        idempotency_key: None when the caller has no way to repeat it.
        digest: of the request's body; the same key with another digest is refused.
    """

    job_id: str
    run_id: str | None
    operation: Operation
    ordered: bool
    created_at_s: float
    idempotency_key: str | None = None
    digest: str = ""


def append(connection: sa.Connection, request: Request, *, scope: str) -> tuple[StoredJob, bool]:
    """Log a request and return its job; False when it was there already.

    Args:
        scope: within which idempotency keys are unique (the run's id, or "" outside runs).

    Raises:
        ConflictError: the key was used for another request (code ``idempotency_key_reused``).
    """
    known = find(connection, request, scope=scope)
    if known is not None:
        return known, False
    seq = _take_seq(connection, request.run_id) if request.ordered and request.run_id else None
    connection.execute(
        jobs.insert().values(
            job_id=request.job_id,
            run_id=request.run_id,
            seq=seq,
            kind=kind_of(request.operation),
            status="queued",
            created_at_s=request.created_at_s,
            payload=codec.encode(request.operation),
            num_deaths=0,
            compute_s=0.0,
            idempotency_scope=scope if request.idempotency_key else None,
            idempotency_key=request.idempotency_key,
            request_digest=request.digest,
        )
    )
    return get_job(connection, request.job_id), True


def find(connection: sa.Connection, request: Request, *, scope: str) -> StoredJob | None:
    """The job that an earlier copy of this request made, if there is one.

    Raises:
        ConflictError: its idempotency key was used for another request.
    """
    if request.idempotency_key is None:
        return None
    row = connection.execute(
        sa.select(jobs).where(
            (jobs.c.idempotency_scope == scope)
            & (jobs.c.idempotency_key == request.idempotency_key)
        )
    ).one_or_none()
    if row is None:
        return None
    if row.request_digest != request.digest:
        raise ConflictError(
            f"Idempotency-Key {request.idempotency_key!r} was used before for another request "
            f"({row.kind}, job {row.job_id}). Use a new key for a new request.",
            code="idempotency_key_reused",
            field="Idempotency-Key",
        )
    return stored_job(row)


def _take_seq(connection: sa.Connection, run_id: str) -> int:
    """The run's next number; the single writer makes reading and adding one step."""
    seq = connection.scalar(sa.select(runs.c.next_seq).where(runs.c.run_id == run_id))
    if seq is None:
        raise NotFoundError(f"Run {run_id!r} was deleted meanwhile.", code="run_not_found")
    connection.execute(runs.update().where(runs.c.run_id == run_id).values(next_seq=seq + 1))
    return seq


def finish(
    connection: sa.Connection,
    job_id: str,
    *,
    status: str,
    finished_at_s: float,
    started_at_s: float | None = None,
    result: bytes | None = None,
    error: ErrorInfo | None = None,
    plan: PassPlan | None = None,
    compute_s: float = 0.0,
    keep_payload: bool = False,
) -> bool:
    """Record the end of a job; False when it had ended before, and nothing was changed.

    Args:
        keep_payload: a replay may need the operation again.
    """
    values: dict[str, object] = {
        "status": status,
        "started_at_s": started_at_s,
        "finished_at_s": finished_at_s,
        "result": result,
        "error_json": msgspec.json.encode(error).decode() if error else None,
        "plan": codec.encode(plan) if plan else None,
        "compute_s": compute_s,
    }
    if not keep_payload:
        values["payload"] = None
    changed = connection.execute(
        jobs.update()
        .where((jobs.c.job_id == job_id) & jobs.c.finished_at_s.is_(None))
        .values(**values)
    )
    return changed.rowcount == 1


def count_death(connection: sa.Connection, job_id: str) -> None:
    """Remember that the worker died while it ran this job."""
    connection.execute(
        jobs.update().where(jobs.c.job_id == job_id).values(num_deaths=jobs.c.num_deaths + 1)
    )
