"""Accepted operations as they are now: looking, waiting, following, cancelling.

Knows no wire and no tensor, nor how an operation is accepted (``submissions.py``). Called by the routes and by
``runs.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from eztinker.engine.active_job import ActiveJob
from eztinker.engine.run_manager import RunManager
from eztinker.engine.streams import DrawnTokens, TokenStream, follow
from eztinker.errors import BusyError, EngineCrashError
from eztinker.service.known_runs import KnownRuns
from eztinker.service.view import View
from eztinker.store import jobs as job_rows
from eztinker.store import runs
from eztinker.store.database import Database
from eztinker.types.operations import (
    CheckpointSaved,
    Operation,
)
from eztinker.types.records import FINAL_STATUSES, JobRecord, RunRecord


class Jobs(View):
    """Jobs of a server."""

    def __init__(self, database: Database, engine: RunManager) -> None:
        self._database = database
        self._engine = engine
        self._known_runs = KnownRuns(database)

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
        return self.seen(active)

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
            return self.seen(active)
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
        return [self.as_seen_now(job) for job in stored], total

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

    # Views ----------------------------------------------------------------------------------------

    def seen(self, active: ActiveJob) -> JobRecord:
        """A job that has not ended, with its place in the queue."""
        position = self._engine.position(active.record.job_id)
        if position is None:
            return self._shown(active.record)
        return replace(
            active.record,
            queue_position=position.ahead,
            wait_reason=position.reason,
            estimated_wait_s=position.wait_s,
        )

    def as_seen_now(self, stored: job_rows.StoredJob) -> JobRecord:
        """A job that the database may know less of than the engine."""
        active = self._engine.active(stored.job_id)
        return self._shown(stored.record()) if active is None else self.seen(active)

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
            self.seen(active)
            for active in self._engine.all_active()
            if active.record.status == status
            and run_id in (None, active.record.run_id)
            and self.principal.sees(active.record.owner)
        ]
        newest_first = found[::-1]
        return newest_first[offset : offset + limit], len(found)
