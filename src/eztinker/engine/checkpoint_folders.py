"""Where checkpoints lie: a folder per run and name, found again after the folder above was moved.

Knows no worker and writes no files. Called by ``actions.py`` and, at start, by ``run_manager.py``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import sqlalchemy as sa

from eztinker.config import ServerConfig
from eztinker.ids import folder_name
from eztinker.store.checkpoints import list_checkpoints, set_folder
from eztinker.store.database import Database
from eztinker.types.records import CheckpointRecord


def checkpoint_folder(config: ServerConfig, run_id: str, name: str) -> Path:
    """Where a checkpoint is written; absolute."""
    return config.checkpoints_path.absolute() / folder_name(run_id) / folder_name(name)


async def find_moved(config: ServerConfig, database: Database) -> None:
    """Note where checkpoints lie now, if their recorded folders are gone and others stand in their place."""
    held = await database.read(lambda connection: list_checkpoints(connection, None))
    moved = await asyncio.to_thread(_moved, config, held)

    def note(connection: sa.Connection) -> None:
        for checkpoint, folder in moved:
            set_folder(connection, checkpoint.run_id, checkpoint.name, str(folder))

    if moved:
        await database.write(note)


def _moved(
    config: ServerConfig, held: list[CheckpointRecord]
) -> list[tuple[CheckpointRecord, Path]]:
    places = [(c, checkpoint_folder(config, c.run_id, c.name)) for c in held]
    return [(c, place) for c, place in places if not Path(c.folder).is_dir() and place.is_dir()]
