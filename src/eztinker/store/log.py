"""The log: operations are appended once, in order, and end once.

``append`` gives an operation its number in its run, or takes the caller's, and makes it a job;
``finish`` records how it ended, together with whatever that end changes elsewhere. A request that
comes again (same number, or same idempotency key) is answered with its first job. Functions over an open connection, called inside
``Database.write``.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
import sqlalchemy as sa

from eztinker.errors import ConflictError, NotFoundError
from eztinker.ids import new_job_id
from eztinker.store.jobs import StoredJob, stored_job
from eztinker.store.tables import jobs, runs
from eztinker.types import codec
from eztinker.types.error_info import ErrorInfo
from eztinker.types.operations import Operation, kind_of
from eztinker.types.plans import PassPlan
from eztinker.types.principal import LOCAL_OWNER

# Statements of every request, made once: making them would cost more than SQLite does.
_SAME_KEY = sa.select(jobs).where(
    (jobs.c.idempotency_scope == sa.bindparam("scope"))
    & (jobs.c.idempotency_key == sa.bindparam("key"))
)
_SAME_NUMBER = sa.select(jobs).where(
    (jobs.c.run_id == sa.bindparam("of_run")) & (jobs.c.seq == sa.bindparam("number"))
)
_JOB_NUMBER = sa.select(jobs.c.number).where(jobs.c.job_id == sa.bindparam("same_id"))
_NEXT_SEQ = sa.select(runs.c.next_seq, runs.c.owner).where(runs.c.run_id == sa.bindparam("of_run"))
_ARRIVED = (
    sa.select(jobs.c.seq)
    .where((jobs.c.run_id == sa.bindparam("of_run")) & (jobs.c.seq >= sa.bindparam("start")))
    .order_by(jobs.c.seq)
)
_SET_NEXT_SEQ = (
    runs.update()
    .where(runs.c.run_id == sa.bindparam("of_run"))
    .values(next_seq=sa.bindparam("next_seq"))
)
_EMPTY_ROW: dict[str, Any] = {column.name: None for column in jobs.c if column.name != "number"} | {
    "num_deaths": 0,
    "compute_s": 0.0,
    "request_digest": "",
    "owner": LOCAL_OWNER,
}
_INSERT = jobs.insert().values({name: sa.bindparam(name) for name in _EMPTY_ROW})
_FINISH = (
    jobs.update()
    .where((jobs.c.job_id == sa.bindparam("same_id")) & jobs.c.finished_at_s.is_(None))
    .values(
        {
            name: sa.bindparam(f"new_{name}")
            for name in (
                "status",
                "started_at_s",
                "finished_at_s",
                "result",
                "error_json",
                "plan",
                "compute_s",
            )
        }
    )
)
_FINISH_AND_EMPTY = _FINISH.values(payload=None)


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
        owner: whose job it becomes.
    """

    job_id: str
    run_id: str | None
    operation: Operation
    ordered: bool
    created_at_s: float
    idempotency_key: str | None = None
    digest: str = ""
    seq: int | None = None
    owner: str = LOCAL_OWNER


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused request whose number its caller counts as used.

    Attributes:
        job_id: id to use; another is made should it be taken.
        kind: of the operation that was asked for.
        digest: of the request's body, as in ``Request``.
        owner: whose job it becomes.
    """

    job_id: str
    run_id: str
    seq: int
    kind: str
    error: ErrorInfo
    digest: str
    owner: str = LOCAL_OWNER


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
        NotFoundError: the run was deleted meanwhile, or has become another owner's.
    """
    known = find(connection, request, scope=scope)
    if known is not None:
        return Appended(known, is_new=False)
    run_id = request.run_id if request.ordered else None
    next_seq = 0 if run_id is None else _next_seq(connection, run_id, request.owner)
    values: dict[str, Any] = {
        "job_id": _free_job_id(connection, request.job_id),
        "run_id": request.run_id,
        "seq": (next_seq if request.seq is None else request.seq) if run_id is not None else None,
        "kind": kind_of(request.operation),
        "status": "queued",
        "created_at_s": request.created_at_s,
        "payload": codec.encode(request.operation),
        "idempotency_scope": scope if request.idempotency_key else None,
        "idempotency_key": request.idempotency_key,
        "request_digest": request.digest,
        "owner": request.owner,
    }
    job = _insert(connection, values)
    if run_id is not None:
        next_seq = _advance(connection, run_id, next_seq)
    return Appended(job, is_new=True, next_seq=next_seq)


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
        return stored_job(row), _next_seq(connection, refusal.run_id, refusal.owner)
    next_seq = _next_seq(connection, refusal.run_id, refusal.owner)
    values: dict[str, Any] = {
        "job_id": _free_job_id(connection, refusal.job_id),
        "run_id": refusal.run_id,
        "seq": refusal.seq,
        "kind": refusal.kind,
        "status": "failed",
        "created_at_s": at_s,
        "finished_at_s": at_s,
        "error_json": msgspec.json.encode(refusal.error).decode(),
        "request_digest": refusal.digest,
        "owner": refusal.owner,
    }
    job = _insert(connection, values)
    return job, _advance(connection, refusal.run_id, next_seq)


def find(connection: sa.Connection, request: Request, *, scope: str) -> StoredJob | None:
    """The job that an earlier copy of this request made, if there is one.

    Raises:
        ConflictError: its idempotency key or number was used for another request.
    """
    if request.seq is not None:
        row = _same_number(connection, request.run_id, request.seq)
        name, what = f"Number {request.seq} of {request.run_id}", "seq"
    elif request.idempotency_key is not None:
        same = {"scope": scope, "key": request.idempotency_key}
        row = connection.execute(_SAME_KEY, same).one_or_none()
        name, what = f"Idempotency-Key {request.idempotency_key!r}", "idempotency_key"
    else:
        return None
    if row is None:
        return None
    _refuse_reuse(row, request.digest, name, what)
    return stored_job(row)


def _same_number(connection: sa.Connection, run_id: str | None, seq: int) -> sa.Row | None:
    return connection.execute(_SAME_NUMBER, {"of_run": run_id, "number": seq}).one_or_none()


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
    while connection.scalar(_JOB_NUMBER, {"same_id": job_id}) is not None:
        job_id = new_job_id()
    return job_id


def _insert(connection: sa.Connection, values: dict[str, Any]) -> StoredJob:
    """Write a row and return it without reading it back."""
    values = _EMPTY_ROW | values
    inserted = connection.execute(_INSERT, values).inserted_primary_key
    assert inserted is not None
    return stored_job(SimpleNamespace(**values, number=inserted[0]))


def _next_seq(connection: sa.Connection, run_id: str | None, owner: str) -> int:
    row = connection.execute(_NEXT_SEQ, {"of_run": run_id}).one_or_none()
    if row is None or row.owner != owner:
        raise NotFoundError(f"Run {run_id!r} was deleted meanwhile.", code="run_not_found")
    return row.next_seq


def _advance(connection: sa.Connection, run_id: str, start: int) -> int:
    """Move the run's next number, now ``start``, over all that have arrived without a gap."""
    next_seq = start
    for seq in connection.scalars(_ARRIVED, {"of_run": run_id, "start": start}):
        if seq != next_seq:
            break
        next_seq += 1
    if next_seq != start:
        connection.execute(_SET_NEXT_SEQ, {"of_run": run_id, "next_seq": next_seq})
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
        "same_id": job_id,
        "new_status": status,
        "new_started_at_s": started_at_s,
        "new_finished_at_s": finished_at_s,
        "new_result": result,
        "new_error_json": msgspec.json.encode(error).decode() if error else None,
        "new_plan": codec.encode(plan) if plan else None,
        "new_compute_s": compute_s,
    }
    changed = connection.execute(_FINISH if keep_payload else _FINISH_AND_EMPTY, values)
    return changed.rowcount == 1


def count_death(connection: sa.Connection, job_id: str) -> None:
    """Remember that the worker died while it ran this job."""
    connection.execute(
        jobs.update().where(jobs.c.job_id == job_id).values(num_deaths=jobs.c.num_deaths + 1)
    )
