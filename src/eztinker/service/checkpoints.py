"""Checkpoints: finding, publishing, deleting them, at once or when their time is over.

Saving and loading are jobs. Called by the routes; ``service.py`` calls ``sweep``.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import sqlalchemy as sa

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

    async def set_ttl(self, run_id: str, name: str, ttl_s: int | None) -> None:
        """Have a checkpoint deleted ``ttl_s`` seconds from now, or never.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
        """
        expires_at_s = None if ttl_s is None else time.time() + ttl_s
        await self._database.write(
            lambda connection: checkpoints.set_expiry(connection, run_id, name, expires_at_s)
        )

    async def set_public(self, run_id: str, name: str, is_public: bool) -> None:
        """Mark a checkpoint as published, or take that back.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
        """
        await self._database.write(
            lambda connection: checkpoints.set_public(connection, run_id, name, is_public)
        )

    async def sweep(self) -> None:
        """Delete what has expired."""
        now_s = time.time()
        if not await self._database.read(
            lambda connection: checkpoints.list_expired(connection, now_s)
        ):
            return

        def delete(connection: sa.Connection) -> list[str]:
            expired = checkpoints.list_expired(connection, now_s)
            for checkpoint in expired:
                checkpoints.delete_checkpoint(connection, checkpoint.run_id, checkpoint.name)
            return [checkpoint.folder for checkpoint in expired]

        for folder in await self._database.write(delete):
            await asyncio.to_thread(blobs.discard, Path(folder))
