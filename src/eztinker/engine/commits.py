"""How a job's end is written: result, plan and side effects in one transaction, and once room is there.

Decides nothing about what the end is, and tells nobody of it. Called by ``loop.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TypeVar

import sqlalchemy as sa

from eztinker.engine.actions import Outcome
from eztinker.engine.active_job import ActiveJob
from eztinker.errors import CapacityError
from eztinker.store import log as operation_log
from eztinker.store import runs
from eztinker.store.database import Database, Query
from eztinker.types.error_info import ErrorInfo
from eztinker.types.operations import STATE_KINDS

log = logging.getLogger(__name__)

T = TypeVar("T")

ROOM_POLL_S = 1.0
"""How soon a result that found no room on the disk is tried again."""


class Commits:
    """Writes ends of jobs into one database; every method returns when its write is durable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def completed(self, active: ActiveJob, outcome: Outcome) -> list[str]:
        """Store a result with its side effects; the snapshots that nothing needs any more."""
        kind = active.task.job.kind

        def write(connection: sa.Connection) -> list[str]:
            _finish(
                connection,
                active,
                status="completed",
                result=outcome.result,
                plan=outcome.plan,
                compute_s=outcome.compute_s,
                # Sampling: its answer shows the prompt's text and is cut at its stop strings.
                keep_payload=kind in STATE_KINDS or kind == "sample",
            )
            return outcome.side_effects(connection)

        return await self._write_when_possible(write)

    async def failed(self, active: ActiveJob, status: str, error: ErrorInfo) -> None:
        """Store a failure or cancellation; a run that could not be made leaves no row."""
        job = active.task.job

        def write(connection: sa.Connection) -> None:
            _finish(connection, active, status=status, error=error)
            if job.kind == "create_run" and job.run_id is not None:
                runs.delete_run_row(connection, job.run_id)

        await self._write_when_possible(write)

    async def death(self, job_id: str) -> None:
        """Count a worker's death with the job that it was running."""
        await self._write_when_possible(
            lambda connection: operation_log.count_death(connection, job_id)
        )

    async def _write_when_possible(self, query: Query[T]) -> T:
        """Commit; with a full disk, wait for room: what was computed is not thrown away."""
        while True:
            try:
                return await self._database.write(query, may_use_reserve=True)
            except CapacityError as error:
                log.warning("Waiting to commit: %s", error.message)
                await asyncio.sleep(ROOM_POLL_S)


def _finish(connection: sa.Connection, active: ActiveJob, **values: object) -> None:
    operation_log.finish(
        connection,
        active.task.job.job_id,
        started_at_s=active.record.started_at_s,
        finished_at_s=time.time(),
        **values,  # type: ignore[arg-type]
    )
