"""Room for jobs: how many may wait, in all, of a run, of an owner, and for a number that has not arrived.

Knows no operation. Called by ``submissions.py`` before an operation is logged.
"""

from __future__ import annotations

from eztinker.config import Limits
from eztinker.engine.run_manager import RunManager
from eztinker.errors import BusyError, TooLargeError
from eztinker.types.principal import LOCAL_OWNER


class Room:
    """The bounded queues of a server."""

    def __init__(self, limits: Limits, engine: RunManager) -> None:
        self._limits = limits
        self._engine = engine

    def check(self, run_id: str | None, owner: str, seq: int | None) -> None:
        """Refuse one more job where there is no room.

        Args:
            run_id: that it belongs to; None for samples of a checkpoint or a bare model.
            owner: whose it is.
            seq: the caller's number of it.

        Raises:
            BusyError: later there will be.
            TooLargeError: too many wait for a number that has not arrived.
        """
        if run_id is not None and seq is not None and self._is_awaited(run_id, seq):
            return  # were it refused, those that wait for it would keep the room for ever
        limits = self._limits
        health = self._engine.health()
        num_jobs = health["queued_jobs"] + health["running_jobs"]
        if num_jobs >= limits.max_queued_jobs:
            raise BusyError(
                f"{num_jobs} jobs are waiting; the server takes {limits.max_queued_jobs} "
                "(limits.max_queued_jobs). Try again when some have ended.",
                retry_after_s=1.0,
            )
        if run_id is not None and self._engine.num_of_run(run_id) >= limits.max_queued_jobs_per_run:
            raise BusyError(
                f"Run {run_id} has {limits.max_queued_jobs_per_run} unfinished jobs "
                "(limits.max_queued_jobs_per_run). Wait for some of them.",
                retry_after_s=1.0,
            )
        # What is held has a bound of its own: were it counted here, the number that it waits for, which may come
        # last, and those in between would have to wait for each other.
        num_held = 0 if run_id is None else self._engine.num_held_of_run(run_id)
        num_of_owner = self._engine.num_of_owner(owner) - num_held
        if owner != LOCAL_OWNER and num_of_owner >= limits.max_queued_jobs_per_owner:
            raise BusyError(
                f"{owner} has {limits.max_queued_jobs_per_owner} unfinished jobs "
                "(limits.max_queued_jobs_per_owner). Wait for some of them.",
                retry_after_s=1.0,
            )

    def _is_awaited(self, run_id: str, seq: int) -> bool:
        """Whether jobs wait for this number; if too many wait for another one, it is refused."""
        if self._engine.is_awaited(run_id, seq):
            return True
        num_held, most = (
            self._engine.num_held_of_run(run_id),
            self._limits.max_held_jobs_per_run,
        )
        if num_held >= most:
            raise TooLargeError(
                f"seq_id: {num_held} operations of {run_id} wait for one before them that has not arrived, "
                "and this server holds no more (limits.max_held_jobs_per_run). Pass less data to one call.",
                field="seq_id",
                details={"limit": most, "setting": "limits.max_held_jobs_per_run"},
            )
        return False
