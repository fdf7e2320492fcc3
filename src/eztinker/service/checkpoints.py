"""Checkpoints: finding and deleting them. Saving and loading are jobs.

Called by the routes.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from eztinker.store import blobs, checkpoints
from eztinker.store.database import Database
from eztinker.types.records import CheckpointRecord


class Checkpoints:
    """Checkpoints of a server."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, *, run_id: str | None) -> list[CheckpointRecord]:
        """Checkpoints of one run, or of all; oldest first."""
        return await self._database.read(
            lambda connection: checkpoints.list_checkpoints(connection, run_id)
        )

    async def get(self, run_id: str, name: str) -> CheckpointRecord:
        """The checkpoint.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
        """
        return await self._database.read(
            lambda connection: checkpoints.get_checkpoint(connection, run_id, name)
        )

    async def delete(self, run_id: str, name: str) -> None:
        """Forget a checkpoint, then remove its files.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
        """
        deleted = await self._database.write(
            lambda connection: checkpoints.delete_checkpoint(connection, run_id, name)
        )
        await asyncio.to_thread(blobs.discard, Path(deleted.folder))
