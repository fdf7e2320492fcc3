"""Runs: creating, finding, deleting.

A run exists for others once its adapter does; a creation that fails leaves nothing behind but its
failed job. Called by the routes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import replace
from typing import Self

import sqlalchemy as sa

from eztinker.config import ServerConfig
from eztinker.engine.run_manager import RunManager
from eztinker.errors import BusyError, StorageError, TooLargeError
from eztinker.ids import check_name, new_job_id, new_run_id
from eztinker.service import admission
from eztinker.service.base_models import BaseModels
from eztinker.service.bounds import check_metadata
from eztinker.service.jobs import Jobs
from eztinker.service.quantized_names import quantization_for
from eztinker.service.sources import Sources
from eztinker.service.submissions import idempotency_scope
from eztinker.service.view import View
from eztinker.store import jobs as job_rows
from eztinker.store import log as operation_log
from eztinker.store import runs
from eztinker.store.database import Database
from eztinker.store.jobs import StoredJob
from eztinker.types.operations import CreateRun
from eztinker.types.principal import LOCAL_OWNER, Principal
from eztinker.types.records import JobRecord, RunRecord
from eztinker.types.training import LoRAConfig, LossSpec, Quantization

DELETE_TIMEOUT_S = 30.0


class Runs(View):
    """Runs of a server."""

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
        self._sources = Sources(database, engine)

    def seen_by(self, principal: Principal) -> Self:
        """As in ``View``, with everything it asks on the principal's behalf."""
        view = super().seen_by(principal)
        view._base_models = self._base_models.seen_by(principal)
        view._jobs = self._jobs.seen_by(principal)
        return view

    async def create(
        self,
        *,
        base_model: str,
        lora: LoRAConfig,
        loss: LossSpec,
        run_id: str | None,
        seed: int | None,
        quantization: Quantization,
        user_metadata: dict[str, str] | None = None,
        idempotency_key: str | None = None,
        request_digest: str = "",
    ) -> RunRecord:
        """Create a run and return it when its adapter exists.

        Args:
            run_id: a name of the caller's choice; None lets the server choose.
            seed: of the adapter's initial weights and dropout; None lets the server choose.

        Raises:
            AlreadyExistsError: ``run_id`` is taken.
            NotFoundError: no such base model.
            UserError: a setting is wrong; no run was made.
        """
        if run_id is not None:
            check_name(run_id, field="run_id")
        if seed is None:
            seed = lora.seed if lora.seed is not None else secrets.randbelow(2**31)
        job = await self.begin(
            CreateRun(base_model, lora, seed, quantization),
            run_id=run_id or new_run_id(),
            loss=loss,
            user_metadata=user_metadata,
            idempotency_key=idempotency_key,
            request_digest=request_digest,
        )
        return await self._wait_for(job.job_id)

    async def begin(
        self,
        operation: CreateRun,
        *,
        run_id: str,
        loss: LossSpec,
        user_metadata: dict[str, str] | None = None,
        idempotency_key: str | None = None,
        request_digest: str = "",
        seq: int | None = None,
    ) -> JobRecord:
        """Log a run's creation and return its job; the run is ready when that has ended.

        Args:
            run_id: checked by the caller.
            seq: 0 when the run's id alone identifies the request over its retries.

        Raises:
            AlreadyExistsError, NotFoundError, UserError: as in ``create``.
        """
        base = await self._base_models.resolve(operation.base_model)
        operation = replace(
            operation,
            base_model=base.bare_name,
            quantization=quantization_for(base, operation.quantization),
        )
        admission.check(operation, base=base, limits=self._config.limits)
        admission.check_loss(
            loss,
            extra_losses=self._engine.loss_functions,
            name_field="loss_config.loss_type",
            config_field="loss_config",
        )
        check_metadata(user_metadata, field="user_metadata")
        await self._sources.need_in_sight(operation, self.principal)
        run = RunRecord(
            run_id=run_id,
            base_model=operation.base_model,
            lora=operation.lora,
            loss=loss,
            seed=operation.seed,
            quantization=operation.quantization,
            status="creating",
            created_at_s=time.time(),
            user_metadata=user_metadata or {},
            owner=self.principal.owner,
        )
        request = operation_log.Request(
            job_id=new_job_id(),
            run_id=run.run_id,
            operation=operation,
            ordered=True,
            created_at_s=run.created_at_s,
            idempotency_key=idempotency_key,
            digest=request_digest,
            seq=seq,
            owner=run.owner,
        )
        job = await self._log_creation(run, request)
        return await self._jobs.get(job.job_id)

    async def create_from(
        self,
        operation: CreateRun,
        *,
        run_id: str,
        loss: LossSpec,
        idempotency_key: str | None = None,
        request_digest: str = "",
    ) -> RunRecord:
        """``begin``, and the run when it is ready."""
        job = await self.begin(
            operation,
            run_id=run_id,
            loss=loss,
            idempotency_key=idempotency_key,
            request_digest=request_digest,
        )
        return await self._wait_for(job.job_id)

    async def get(self, run_id: str) -> RunRecord:
        """The run.

        Raises:
            NotFoundError: code ``run_not_found``.
        """
        run = await self._database.read(lambda connection: runs.get_run(connection, run_id))
        if not self.principal.sees(run.owner):
            raise runs.not_found(run_id)
        return run

    async def known(self, run_id: str) -> RunRecord:
        """The run at less cost, for what never changes in it; its step may be an old one.

        Raises:
            NotFoundError: code ``run_not_found``.
        """
        return await self._jobs.run(run_id)

    async def list(
        self, *, limit: int, offset: int, base_model: str | None
    ) -> tuple[list[RunRecord], int]:
        """One page of the runs in sight, newest first, and how many there are in all."""
        owner = self.principal.owner_in_sight
        return await self._database.read(
            lambda connection: runs.list_runs(
                connection, limit=limit, offset=offset, base_model=base_model, owner=owner
            )
        )

    async def unload(self, run_id: str) -> None:
        """Free what an idle run holds on the device; one with unfinished jobs keeps it.

        Raises:
            NotFoundError: code ``run_not_found``.
        """
        await self.get(run_id)
        await self._engine.unload_run(run_id)

    async def last_used(self, run_ids: list[str]) -> dict[str, float]:
        """When the newest job of each run arrived, in seconds since the epoch."""
        return await self._database.read(
            lambda connection: job_rows.newest_arrivals(connection, run_ids)
        )

    async def delete(self, run_id: str) -> None:
        """Cancel a run's jobs and forget it with its jobs and snapshots; checkpoints stay.

        Raises:
            NotFoundError: code ``run_not_found``.
            BusyError: a running job does not stop; nothing was deleted.
        """
        await self.get(run_id)
        active = self._engine.active_of_run(run_id)
        for job in active:
            await self._engine.cancel(job.record.job_id)
        try:
            async with asyncio.timeout(DELETE_TIMEOUT_S):
                for job in active:
                    await job.ended.wait()
        except TimeoutError:
            raise _still_busy(run_id) from None
        if self._engine.is_leaving and self._engine.active_of_run(run_id):
            raise _still_busy(run_id)
        await self._database.write(
            lambda connection: runs.delete_run(connection, run_id), may_use_reserve=True
        )
        self._jobs.forget_run(run_id)
        await self._engine.forget_run(run_id)

    async def _log_creation(self, run: RunRecord, request: operation_log.Request) -> StoredJob:
        scope = idempotency_scope(None, run.owner)

        def write(connection: sa.Connection) -> operation_log.Appended:
            known = operation_log.find(connection, request, scope=scope)
            if known is not None:
                return operation_log.Appended(known, is_new=False)
            self._refuse_too_many(connection, run.owner)
            runs.insert_run(connection, run)
            return operation_log.append(connection, request, scope=scope)

        appended = await self._database.write(write)
        if appended.is_new:
            self._engine.submit(appended)
        return appended.job

    def _refuse_too_many(self, connection: sa.Connection, owner: str) -> None:
        limits = self._config.limits
        if runs.count_runs(connection) >= limits.max_runs:
            raise TooLargeError(
                f"The server holds {limits.max_runs} runs (limits.max_runs). Delete one first.",
                code="too_many_runs",
            )
        if owner == LOCAL_OWNER:
            return
        if runs.count_runs(connection, owner) >= limits.max_runs_per_owner:
            raise TooLargeError(
                f"{owner} holds {limits.max_runs_per_owner} runs (limits.max_runs_per_owner). Delete one first.",
                code="too_many_runs",
            )

    async def _wait_for(self, job_id: str) -> RunRecord:
        record = await self._jobs.wait_for_end(job_id)
        if record.error is not None:
            raise record.error.as_error()
        if record.run_id is None:
            raise StorageError(f"Job {job_id} made no run.")
        return await self.get(record.run_id)


def _still_busy(run_id: str) -> BusyError:
    return BusyError(
        f"Run {run_id} still executes a job. Try again in a moment.", retry_after_s=5.0
    )
