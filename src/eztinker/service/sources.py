"""Checkpoints that an operation reads or would write over, as far as the database knows them before it is logged.

Called by ``submissions.py`` and ``runs.py``.
"""

from __future__ import annotations

from eztinker.engine.run_manager import RunManager
from eztinker.store import checkpoints
from eztinker.store.database import Database
from eztinker.types.operations import CreateRun, LoadCheckpoint, Operation, Sample, SaveCheckpoint
from eztinker.types.principal import Principal


class Sources:
    """Checkpoints of a server, seen from operations."""

    def __init__(self, database: Database, engine: RunManager) -> None:
        self._database = database
        self._engine = engine

    async def need_in_sight(self, operation: Operation, principal: Principal) -> None:
        """Refuse a checkpoint that the principal does not see; one that a run of its own may yet save passes.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
        """
        source = _source_of(operation)
        if source is None or principal.sees_all:
            return
        owner = principal.owner
        await self._database.read(
            lambda connection: checkpoints.need_in_sight(connection, *source, owner=owner)
        )

    async def check(self, operation: Operation, run_id: str | None) -> None:
        """What the database already knows to be impossible is refused now, not as a failed job."""
        if isinstance(operation, SaveCheckpoint) and not operation.overwrite and run_id is not None:
            await self._database.read(
                lambda connection: checkpoints.refuse_existing(connection, run_id, operation.name)
            )
        elif isinstance(operation, LoadCheckpoint) and not self._is_being_saved(operation):
            await self._database.read(
                lambda connection: checkpoints.get_checkpoint(
                    connection, operation.source_run_id, operation.name
                )
            )
        elif isinstance(operation, Sample) and operation.weights.checkpoint is not None:
            weights = operation.weights
            await self._database.read(
                lambda connection: checkpoints.get_checkpoint(
                    connection, weights.run_id or "", weights.checkpoint or ""
                )
            )

    def _is_being_saved(self, operation: LoadCheckpoint) -> bool:
        """Whether a save of that name is on its way, so that a pipelined load will find it."""
        return any(
            isinstance(active.task.operation, SaveCheckpoint)
            and active.task.operation.name == operation.name
            for active in self._engine.active_of_run(operation.source_run_id)
        )


def _source_of(operation: Operation) -> tuple[str, str] | None:
    """Run and name of the checkpoint that an operation reads, if it reads one."""
    match operation:
        case LoadCheckpoint():
            return operation.source_run_id, operation.name
        case CreateRun():
            source = operation.source_run_id, operation.source_name
        case Sample():
            source = operation.weights.run_id, operation.weights.checkpoint
        case _:
            return None
    return (source[0], source[1]) if source[0] is not None and source[1] is not None else None
