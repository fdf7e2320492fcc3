"""Operations on their way in: checked, logged, queued.

``submit`` answers only when the operation is durable. Everything a caller can do wrong is refused
before that. Knows no wire and no tensor. Called by the routes; what becomes of a job is ``jobs.py``'s affair.
"""

from __future__ import annotations

import asyncio
import time
from typing import Self

from eztinker.config import ServerConfig
from eztinker.engine.run_manager import RunManager
from eztinker.errors import EZTinkerError
from eztinker.ids import new_job_id
from eztinker.service import admission
from eztinker.service.base_models import BaseModels
from eztinker.service.jobs import Jobs
from eztinker.service.room import Room
from eztinker.service.sources import Sources
from eztinker.service.view import View
from eztinker.store import log as operation_log
from eztinker.store.database import Database
from eztinker.types.error_info import ErrorInfo
from eztinker.types.operations import Operation, Sample
from eztinker.types.principal import LOCAL_OWNER, Principal
from eztinker.types.records import JobRecord, RunRecord


class Submissions(View):
    """The way into a server's log."""

    def __init__(
        self,
        config: ServerConfig,
        database: Database,
        engine: RunManager,
        base_models: BaseModels,
        jobs: Jobs,
    ) -> None:
        self._config = config
        self._database = database
        self._engine = engine
        self._base_models = base_models
        self._jobs = jobs
        self._room = Room(config.limits, engine)
        self._sources = Sources(database, engine)

    def seen_by(self, principal: Principal) -> Self:
        """As in ``View``, with everything it asks on the principal's behalf."""
        view = super().seen_by(principal)
        view._base_models = self._base_models.seen_by(principal)
        view._jobs = self._jobs.seen_by(principal)
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
            return await self._jobs.get(known.job_id)
        # A caller who hangs up in between must not leave a logged job that nobody has queued.
        return await asyncio.shield(self._log_and_queue(request, scope, streamed))

    async def _log_and_queue(
        self, request: operation_log.Request, scope: str, streamed: bool
    ) -> JobRecord:
        appended = await self._database.write(
            lambda connection: operation_log.append(connection, request, scope=scope)
        )
        if appended.is_new:
            return self._jobs.seen(self._engine.submit(appended, streamed=streamed))
        return await self._jobs.get(appended.job.job_id)

    async def refuse(
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
        owner = (await self._jobs.run(run_id)).owner
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
        return self._jobs.as_seen_now(stored)

    async def _run_in_sight(self, operation: Operation, run_id: str | None) -> RunRecord | None:
        """The run that an operation belongs to; None for samples of a checkpoint or a bare model.

        Raises:
            NotFoundError: code ``run_not_found``.
        """
        if isinstance(operation, Sample) and (run_id is None or operation.weights.checkpoint):
            return None
        assert run_id is not None
        return await self._jobs.run(run_id)

    async def _admit(
        self, operation: Operation, run: RunRecord | None, *, seq: int | None, owner: str
    ) -> None:
        """Refuse what cannot succeed.

        Args:
            run: it belongs to; None for samples of a checkpoint or a bare model.
            seq: the caller's number; None if nothing comes between what the database says now and the
                operation. Before a number, others may still arrive and save what it names.
        """
        await self._sources.need_in_sight(operation, self.principal)
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


def idempotency_scope(run_id: str | None, owner: str) -> str:
    """Within which idempotency keys are unique: a run, and what an owner does outside of runs."""
    return (run_id or "") if owner == LOCAL_OWNER else f"{owner}/{run_id or ''}"
