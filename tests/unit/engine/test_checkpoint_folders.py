"""A state folder that was moved still holds its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from eztinker.config import ServerConfig
from eztinker.engine.checkpoint_folders import checkpoint_folder, find_moved
from eztinker.store import checkpoints
from eztinker.store.database import Database
from eztinker.types.records import CheckpointRecord
from eztinker.types.training import LoRAConfig

RUN, NAME = "run_1", "法" * 128


@pytest.mark.parametrize("stays", [True, False])
async def test_checkpoints_are_found_where_they_lie(tmp_path: Path, stays: bool) -> None:
    old, new = (
        ServerConfig.model_validate({"state_dir": tmp_path / name}) for name in ("old", "new")
    )
    first = checkpoint_folder(old, RUN, NAME)
    first.mkdir(parents=True)
    database = Database(tmp_path / "database")
    database.open()
    try:
        record = CheckpointRecord(RUN, NAME, "nano", LoRAConfig(), 1.0, 9, False, 3, str(first))
        await database.write(lambda c: checkpoints.put_checkpoint(c, record, overwrite=False))
        if stays:
            checkpoint_folder(new, RUN, NAME).mkdir(parents=True)
        else:
            (tmp_path / "old").rename(tmp_path / "new")
        await find_moved(new, database)
        found = await database.read(lambda c: checkpoints.get_checkpoint(c, RUN, NAME))
        assert found.folder == str(first if stays else checkpoint_folder(new, RUN, NAME))
    finally:
        database.close()
