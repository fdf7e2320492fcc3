"""The log: operations are appended once, in order, and end once.

``append`` gives an operation its number in its run, or takes the caller's, and makes it a job;
``finish`` records how it ended, together with whatever that end changes elsewhere. A request that
comes again (same number, or same idempotency key) is answered with its first job. Functions over an open connection, called inside
``Database.write``.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from eztinker.errors import ConflictError, NotFoundError
from eztinker.ids import new_job_id
from eztinker.store.jobs import StoredJob, get_job, stored_job
from eztinker.store.tables import jobs, runs
from eztinker.types import codec
from eztinker.types.messages import ErrorInfo, PassPlan
from eztinker.types.operations import Operation, kind_of


@dataclass(frozen=True, slots=True)
class Request:
    """An operation as it arrives, with its identity.

    Attributes:
        job_id: id to use if the request is new; another is made should it be taken.
        run_id: the run it belongs to; None for the bare base model.
        ordered: whether it takes a number in its run (everything but sampling).
        idempotency_key: None when the caller has no way to repeat it.
        digest: of the request's body; the same key or number with another digest is refused.
        seq: the caller's number for it; None takes the run's next one. Numbers may arrive in any
            order; each is used once.
    """

    job_id: str
    run_id: str | None
    operation: Operation
    ordered: bool
    created_at_s: float
    idempotency_key: str | None = None
    digest: str = ""
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused request whose number its caller counts as used.

    Attributes:
        job_id: id to use; another is made should it be taken.
        kind: of the operation that was asked for.
        digest: of the request's body, as in ``Request``.
    """

    job_id: str
    run_id: str
    seq: int
    kind: str
    error: ErrorInfo
    digest: str


@dataclass(frozen=True, slots=True)
class Appended:
    """A logged request.

    Attributes:
        is_new: False when an earlier copy of the request had made the job.
        next_seq: lowest number of the run that has not arrived; jobs below it may start.
    """

    job: StoredJob
    is_new: bool
    next_seq: int = 0


def append(connection: sa.Connection, request: Request, *, scope: str) -> Appended:
    """Log a request and return its job.

    Args:
        scope: within which idempotency keys are unique (the run's id, or "" outside runs).

    Raises:
        ConflictError: the key or number was used for another request (codes
            ``idempotency_key_reused``, ``seq_reused``).
        NotFoundError: the run was deleted meanwhile.
    """
    known = find(connection, request, scope=scope)
    if known is not None:
        return Appended(known, is_new=False)
    ordered = request.ordered and request.run_id is not None
    seq = _take_seq(connection, request) if ordered else None
    job_id = _free_job_id(connection, request.job_id)
    connection.execute(
        jobs.insert().values(
            job_id=job_id,
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
    next_seq = _advance(connection, request.run_id) if ordered and request.run_id else 0
    return Appended(get_job(connection, job_id), is_new=True, next_seq=next_seq)


def append_refused(
    connection: sa.Connection, refusal: Refusal, *, at_s: float
) -> tuple[StoredJob, int]:
    """Use up a caller's number for a request that was refused: a job that has failed already.

    Returns:
        The job, or the one that an earlier copy of the request had made; and the lowest number of
        the run that has not arrived.

    Raises:
        ConflictError: the number was used for another request.
        NotFoundError: there is no such run.
    """
    row = _same_number(connection, refusal.run_id, refusal.seq)
    if row is not None:
        _refuse_reuse(row, refusal.digest, f"Number {refusal.seq} of {refusal.run_id}", "seq")
        return stored_job(row), _next_seq(connection, refusal.run_id)
    _next_seq(connection, refusal.run_id)
    job_id = _free_job_id(connection, refusal.job_id)
    connection.execute(
        jobs.insert().values(
            job_id=job_id,
            run_id=refusal.run_id,
            seq=refusal.seq,
            kind=refusal.kind,
            status="failed",
            created_at_s=at_s,
            finished_at_s=at_s,
            error_json=msgspec.json.encode(refusal.error).decode(),
            num_deaths=0,
            compute_s=0.0,
            request_digest=refusal.digest,
        )
    )
    return get_job(connection, job_id), _advance(connection, refusal.run_id)


def find(connection: sa.Connection, request: Request, *, scope: str) -> StoredJob | None:
    """The job that an earlier copy of this request made, if there is one.

    Raises:
        ConflictError: its idempotency key or number was used for another request.
    """
    if request.seq is not None:
        row = _same_number(connection, request.run_id, request.seq)
        name, what = f"Number {request.seq} of {request.run_id}", "seq"
    elif request.idempotency_key is not None:
        same = (jobs.c.idempotency_scope == scope) & (
            jobs.c.idempotency_key == request.idempotency_key
        )
        row = connection.execute(sa.select(jobs).where(same)).one_or_none()
        name, what = f"Idempotency-Key {request.idempotency_key!r}", "idempotency_key"
    else:
        return None
    if row is None:
        return None
    _refuse_reuse(row, request.digest, name, what)
    return stored_job(row)


def _same_number(connection: sa.Connection, run_id: str | None, seq: int) -> sa.Row | None:
    same = (jobs.c.run_id == run_id) & (jobs.c.seq == seq)
    return connection.execute(sa.select(jobs).where(same)).one_or_none()


def _refuse_reuse(row: sa.Row, digest: str, name: str, what: str) -> None:
    if row.request_digest != digest:
        raise ConflictError(
            f"{name} was used before for another request ({row.kind}, job {row.job_id}). Use a new "
            "one for a new request.",
            code=f"{what}_reused",
            field="seq_id" if what == "seq" else "Idempotency-Key",
        )


def list_next_seqs(connection: sa.Connection) -> dict[str, int]:
    """For every run the lowest number that has not arrived."""
    rows = connection.execute(sa.select(runs.c.run_id, runs.c.next_seq))
    return {row.run_id: row.next_seq for row in rows}


def _free_job_id(connection: sa.Connection, job_id: str) -> str:
    """``job_id`` or a fresh one: eight hex digits meet again within some ten thousand jobs."""
    while connection.scalar(sa.select(jobs.c.number).where(jobs.c.job_id == job_id)) is not None:
        job_id = new_job_id()
    return job_id


def _take_seq(connection: sa.Connection, request: Request) -> int:
    """The request's number; the single writer makes reading and adding one step."""
    seq = _next_seq(connection, request.run_id)
    return seq if request.seq is None else request.seq


def _next_seq(connection: sa.Connection, run_id: str | None) -> int:
    seq = connection.scalar(sa.select(runs.c.next_seq).where(runs.c.run_id == run_id))
    if seq is None:
        raise NotFoundError(f"Run {run_id!r} was deleted meanwhile.", code="run_not_found")
    return seq


def _advance(connection: sa.Connection, run_id: str) -> int:
    """Move the run's next number over all that have arrived without a gap."""
    start = connection.scalar(sa.select(runs.c.next_seq).where(runs.c.run_id == run_id)) or 0
    next_seq = start
    arrived = sa.select(jobs.c.seq).where((jobs.c.run_id == run_id) & (jobs.c.seq >= start))
    for seq in connection.scalars(arrived.order_by(jobs.c.seq)):
        if seq != next_seq:
            break
        next_seq += 1
    connection.execute(runs.update().where(runs.c.run_id == run_id).values(next_seq=next_seq))
    return next_seq


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
