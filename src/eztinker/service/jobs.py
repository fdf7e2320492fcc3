"""Accepted operations: admission, identity, waiting, cancelling.

``submit`` answers only when the operation is durable. Everything a caller can do wrong is refused
before that. Knows no wire and no tensor. Called by the routes and by ``runs.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Self

from eztinker.config import ServerConfig
from eztinker.engine.active_job import ActiveJob
from eztinker.engine.run_manager import RunManager
from eztinker.engine.streams import DrawnTokens, TokenStream, follow
from eztinker.errors import BusyError, EngineCrashError, EZTinkerError
from eztinker.ids import new_job_id
from eztinker.service import admission
from eztinker.service.base_models import BaseModels
from eztinker.service.known_runs import KnownRuns
from eztinker.service.room import Room
from eztinker.service.sources import Sources
from eztinker.service.view import View
from eztinker.store import jobs as job_rows
from eztinker.store import log as operation_log
from eztinker.store import runs
from eztinker.store.database import Database
from eztinker.types.error_info import ErrorInfo
from eztinker.types.operations import (
    CheckpointSaved,
    Operation,
    Sample,
)
from eztinker.types.principal import LOCAL_OWNER, Principal
from eztinker.types.records import FINAL_STATUSES, JobRecord, RunRecord


class Jobs(View):
    """Jobs of a server."""

    def __init__(
        self,
        config: ServerConfig,
        database: Database,
        engine: RunManager,
        base_models: BaseModels,
    ) -> None:
        self._config = config
        self._database = database
        self._engine = engine
        self._base_models = base_models
        self._known_runs = KnownRuns(database)
        self._room = Room(config.limits, engine)
        self._sources = Sources(database, engine)

    def seen_by(self, principal: Principal) -> Self:
        """As in ``View``, with the base models that this principal may name."""
        view = super().seen_by(principal)
        view._base_models = self._base_models.seen_by(principal)
        return view

    async def submit(
        self,
        operation: Operation,
        *,
        run_id: str | None,
        idempotency_key: str | None = None,
        request_digest: str = "",
        seq: int | None = None,
        streamed: bool = False,
    ) -> JobRecord:
        """Check an operation, log it, queue it.

        Args:
            run_id: the run it belongs to; None for sampling from a bare base model.
            idempotency_key: the same key again on the same run answers with the first job.
            request_digest: tells a repeated request from another one under the same key.
            seq: the caller's number of it in the run; None takes the next one.
            streamed: its tokens can be followed while it runs (sampling only).

        Raises:
            UserError: nothing was logged.
            CapacityError: queues or disk are full; nothing was logged.
        """
        run = await self._run_in_sight(operation, run_id)
        owner = self.principal.owner if run is None else run.owner
        request = operation_log.Request(
            job_id=new_job_id(),
            run_id=run_id,
            operation=operation,
            ordered=not isinstance(operation, Sample),
            created_at_s=time.time(),
            idempotency_key=idempotency_key,
            digest=request_digest,
            seq=seq,
            owner=owner,
        )
        scope = idempotency_scope(run_id, owner)
        try:
            await self._admit(operation, run, seq=seq, owner=owner)
        except EZTinkerError:
            # A repeated request may be refused by what its first copy has done (a saved name).
            known = await self._database.read(
                lambda connection: operation_log.find(connection, request, scope=scope)
            )
            if known is None:
                raise
            return await self.get(known.job_id)
        # A caller who hangs up in between must not leave a logged job that nobody has queued.
        return await asyncio.shield(self._log_and_queue(request, scope, streamed))

    async def _log_and_queue(
        self, request: operation_log.Request, scope: str, streamed: bool
    ) -> JobRecord:
        appended = await self._database.write(
            lambda connection: operation_log.append(connection, request, scope=scope)
        )
        if appended.is_new:
            return self._seen(self._engine.submit(appended, streamed=streamed))
        return await self.get(appended.job.job_id)

    async def submit_refused(
        self,
        error: EZTinkerError,
        *,
        run_id: str,
        kind: str,
        seq: int,
        request_digest: str,
    ) -> JobRecord:
        """Use up a caller's number for a request that was refused, so that later ones can run.

        Returns:
            A failed job with the error, or the job that an earlier copy of the request made.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: the number was used for another request.
        """
        info = ErrorInfo.of(error)
        owner = (await self.run(run_id)).owner
        refusal = operation_log.Refusal(
            new_job_id(), run_id, seq, kind, info, request_digest, owner
        )
        # As in submit: a caller who hangs up must not leave behind a number that releases nothing.
        return await asyncio.shield(self._log_refusal(refusal))

    async def _log_refusal(self, refusal: operation_log.Refusal) -> JobRecord:
        at_s = time.time()
        stored, next_seq = await self._database.write(
            lambda connection: operation_log.append_refused(connection, refusal, at_s=at_s)
        )
        self._engine.release(refusal.run_id, next_seq)
        return self._as_seen_now(stored)

    async def wait(self, job_id: str, timeout_s: float) -> JobRecord:
        """The job when it has ended, or as it is after ``timeout_s`` or when the server is being stopped.

        Raises:
            NotFoundError: code ``job_not_found``.
        """
        active = self._active(job_id)
        if active is None:
            return await self.get(job_id)
        if timeout_s > 0 and not self._engine.is_leaving:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if timeout_s == math.inf else timeout_s):
                    await active.ended.wait()
        return self._seen(active)

    async def wait_for_end(self, job_id: str) -> JobRecord:
        """The job when it has ended, however long that takes.

        Raises:
            NotFoundError: code ``job_not_found``.
            BusyError: the server is being stopped; the job goes on when it is back.
        """
        record = await self.wait(job_id, math.inf)
        if record.status not in FINAL_STATUSES:
            raise BusyError(
                f"The server is being stopped. Job {job_id} goes on when it is back; ask for it then.",
                retry_after_s=5.0,
            )
        return record

    async def follow(
        self, job_ids: Sequence[str], *, patience_s: float
    ) -> AsyncIterator[list[tuple[int, DrawnTokens]]]:
        """The tokens of streamed jobs as they are drawn; ends with the jobs.

        They are shown before the job's result is committed. One that has ended, or is not streamed, shows
        none: its result has them.

        Args:
            job_ids: in sight.
            patience_s: after so long without a token comes an empty list.

        Yields:
            (place among ``job_ids``, tokens).

        Raises:
            EngineCrashError: code ``stream_diverged``: the worker died, and the second drawing, on weights
                that had moved on, gave other tokens than those shown. The result is that of the second.
        """
        streams: dict[int, TokenStream] = {}
        for place, job_id in enumerate(job_ids):
            active = self._engine.active(job_id)
            if active is not None and active.stream is not None:
                streams[place] = active.stream
        places = list(streams)
        async for drawn in follow(list(streams.values()), patience_s=patience_s):
            yield [(places[number], tokens) for number, tokens in drawn]
        if any(stream.has_diverged for stream in streams.values()):
            raise EngineCrashError(
                "The engine worker died under this answer, and the weights have changed since it began. Ask "
                "again.",
                code="stream_diverged",
            )

    async def get(self, job_id: str) -> JobRecord:
        """The job as it is now.

        Raises:
            NotFoundError: code ``job_not_found``.
        """
        active = self._active(job_id)
        if active is not None:
            return self._seen(active)
        return self._shown((await self._stored(job_id)).record())

    async def operation(self, job_id: str) -> Operation:
        """What a sampling job was asked; other kinds keep it only while a replay may need it.

        Raises:
            NotFoundError: code ``job_not_found``.
        """
        active = self._active(job_id)
        if active is not None:
            return active.task.operation
        return (await self._stored(job_id)).operation()

    async def list(
        self, *, run_id: str | None, status: str | None, limit: int, offset: int
    ) -> tuple[list[JobRecord], int]:
        """One page of the jobs in sight, newest first, and how many there are in all."""
        owner = self.principal.owner_in_sight
        if status is not None and status not in FINAL_STATUSES:
            return self._list_active(run_id, status, limit, offset)
        stored, total = await self._database.read(
            lambda connection: job_rows.list_jobs(
                connection, run_id=run_id, status=status, limit=limit, offset=offset, owner=owner
            )
        )
        return [self._as_seen_now(job) for job in stored], total

    async def log(self, run_id: str, *, after_seq: int, limit: int) -> list[JobRecord]:
        """What a run has done: its numbered operations that have ended, in order.

        Args:
            run_id: one that exists.
            after_seq: the last number already seen; -1 begins with the run's creation.
            limit: most entries.

        Raises:
            NotFoundError: code ``run_not_found``.
        """
        await self.run(run_id)
        entries = await self._database.read(
            lambda connection: job_rows.list_log(
                connection, run_id, after_seq=after_seq, limit=limit
            )
        )
        return [self._shown(stored.record()) for stored in entries]

    async def cancel(self, job_id: str) -> JobRecord:
        """Ask a job to stop, and return it as it is then; one that has ended stays as it is.

        Raises:
            NotFoundError: code ``job_not_found``.
        """
        active = self._active(job_id)
        if active is None:
            return await self.get(job_id)
        await self._engine.cancel(job_id)
        return await self.wait(job_id, timeout_s=1.0)

    # What is in sight -----------------------------------------------------------------------------

    def _active(self, job_id: str) -> ActiveJob | None:
        """The job if it has not ended and is in sight."""
        active = self._engine.active(job_id)
        return active if active and self.principal.sees(active.record.owner) else None

    async def _stored(self, job_id: str) -> job_rows.StoredJob:
        stored = await self._database.read(lambda conn: job_rows.get_job(conn, job_id))
        if not self.principal.sees(stored.owner):
            raise job_rows.not_found(job_id)
        return stored

    async def run(self, run_id: str) -> RunRecord:
        """The run that jobs are meant for; its step may be an old one.

        Raises:
            NotFoundError: code ``run_not_found``.
        """
        run = await self._known_runs.get(run_id)
        if not self.principal.sees(run.owner):
            raise runs.not_found(run_id)
        return run

    def forget_run(self, run_id: str) -> None:
        """The run was deleted."""
        self._known_runs.forget(run_id)

    async def _run_in_sight(self, operation: Operation, run_id: str | None) -> RunRecord | None:
        """The run that an operation belongs to; None for samples of a checkpoint or a bare model.

        Raises:
            NotFoundError: code ``run_not_found``.
        """
        if isinstance(operation, Sample) and (run_id is None or operation.weights.checkpoint):
            return None
        assert run_id is not None
        return await self.run(run_id)

    async def need_source(self, operation: Operation) -> None:
        """Refuse a checkpoint that is not in sight; one that a run in sight may yet save passes.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
        """
        await self._sources.need_in_sight(operation, self.principal)

    # Admission ------------------------------------------------------------------------------------

    async def _admit(
        self, operation: Operation, run: RunRecord | None, *, seq: int | None, owner: str
    ) -> None:
        """Refuse what cannot succeed.

        Args:
            run: it belongs to; None for samples of a checkpoint or a bare model.
            seq: the caller's number; None if nothing comes between what the database says now and the
                operation. Before a number, others may still arrive and save what it names.
        """
        await self.need_source(operation)
        if run is None:
            assert isinstance(operation, Sample)
            base_model = operation.weights.base_model
        else:
            base_model = run.base_model
        base = await self._base_models.resolve(base_model)
        admission.check(
            operation,
            base=base,
            limits=self._config.limits,
            extra_losses=self._engine.loss_functions,
        )
        if seq is None:
            await self._sources.check(operation, run.run_id if run else None)
        self._room.check(run.run_id if run else None, owner, seq)

    # Views ----------------------------------------------------------------------------------------

    def _seen(self, active: ActiveJob) -> JobRecord:
        position = self._engine.position(active.record.job_id)
        if position is None:
            return self._shown(active.record)
        return replace(
            active.record,
            queue_position=position.ahead,
            wait_reason=position.reason,
            estimated_wait_s=position.wait_s,
        )

    def _as_seen_now(self, stored: job_rows.StoredJob) -> JobRecord:
        active = self._engine.active(stored.job_id)
        return self._shown(stored.record()) if active is None else self._seen(active)

    def _shown(self, record: JobRecord) -> JobRecord:
        """Tenants do not learn where on this machine their files lie."""
        if self.principal.sees_all or not isinstance(record.result, CheckpointSaved):
            return record
        saved = record.result
        return replace(record, result=replace(saved, path=f"{saved.run_id}/{saved.name}"))

    def _list_active(
        self, run_id: str | None, status: str, limit: int, offset: int
    ) -> tuple[list[JobRecord], int]:
        found = [
            self._seen(active)
            for active in self._engine.all_active()
            if active.record.status == status
            and run_id in (None, active.record.run_id)
            and self.principal.sees(active.record.owner)
        ]
        newest_first = found[::-1]
        return newest_first[offset : offset + limit], len(found)


def idempotency_scope(run_id: str | None, owner: str) -> str:
    """Within which idempotency keys are unique: a run, and what an owner does outside of runs."""
    return (run_id or "") if owner == LOCAL_OWNER else f"{owner}/{run_id or ''}"
