"""Runs as the database last said they are, for what never changes in them: owner, base model, adapter, loss.

Every operation asks for these before it is logged; reading them again each time costs as much as the rest of its
admission. The step in such a record may be an old one. Called by ``jobs.py``; ``runs.py`` says what was deleted.
"""

from __future__ import annotations

from eztinker.store import runs
from eztinker.store.database import Database
from eztinker.types.records import RunRecord


class KnownRuns:
    """Runs that are ready, by id."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._records: dict[str, RunRecord] = {}
        self._num_forgotten = 0

    async def get(self, run_id: str) -> RunRecord:
        """The run; its step may be an old one.

        Raises:
            NotFoundError: code ``run_not_found``.
        """
        known = self._records.get(run_id)
        if known is not None:
            return known
        num_forgotten = self._num_forgotten
        run = await self._database.read(lambda connection: runs.get_run(connection, run_id))
        # One that is still being made may yet vanish, and one that was just deleted may have been read before.
        if run.status == "ready" and num_forgotten == self._num_forgotten:
            self._records[run_id] = run
        return run

    def forget(self, run_id: str) -> None:
        """The run was deleted: its name may become another's."""
        self._records.pop(run_id, None)
        self._num_forgotten += 1
