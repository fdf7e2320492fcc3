"""Checkpoints are copied whole and deleted when their time is over."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from eztinker.config import ServerConfig
from eztinker.errors import AlreadyExistsError, NotFoundError
from eztinker.service.checkpoints import Checkpoints
from eztinker.store import blobs, checkpoints
from eztinker.store.database import Database
from eztinker.types.records import CheckpointRecord
from eztinker.types.training import LoRAConfig


@pytest.fixture
def database(tmp_path: Path):
    database = Database(tmp_path)
    database.open()
    yield database
    database.close()


@pytest.fixture
def service(tmp_path: Path, database: Database) -> Checkpoints:
    return Checkpoints(ServerConfig.model_validate({"state_dir": tmp_path}), database)


async def save(
    database: Database, folder: Path, run_id: str = "run_1", text: str = "w", **changes: object
) -> CheckpointRecord:
    """A checkpoint of one file."""
    temporary = blobs.new_folder(folder / run_id)
    (temporary / "weights").write_text(text)
    files = {"weights": blobs.sha256(temporary / "weights")}
    target = folder / run_id / "kept"
    size = blobs.publish(temporary, target, files=files, facts={"run_id": run_id})
    record = CheckpointRecord(
        run_id, "kept", "nano", LoRAConfig(), 1.0, size, False, 3, str(target)
    )
    record = replace(record, **changes)
    await database.write(lambda conn: checkpoints.put_checkpoint(conn, record, overwrite=False))
    return record


async def test_what_has_expired_is_deleted_with_its_files(service, database, tmp_path) -> None:
    gone = await save(database, tmp_path, "run_1", expires_at_s=time.time() - 1)
    kept = await save(database, tmp_path, "run_2", expires_at_s=time.time() + 60)
    for_ever = await save(database, tmp_path, "run_3")
    await service.sweep()
    assert await service.list(run_id=None) == [kept, for_ever]
    assert not Path(gone.folder).exists()
    assert Path(kept.folder).exists()


@pytest.mark.parametrize("jump_s", [-1e8, 1e8])
async def test_nothing_expires_because_a_clock_was_set(
    service, database, tmp_path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """The wall clock jumps by years while the server runs: lifetimes neither end nor grow."""
    await save(database, tmp_path, "run_1", expires_at_s=time.time() + 60)
    await save(database, tmp_path, "run_2", expires_at_s=time.time() - 1)
    really = time.time
    monkeypatch.setattr(time, "time", lambda: really() + jump_s)
    await service.sweep()
    assert [found.run_id for found in await service.list(run_id=None)] == ["run_1"]
    await service.set_ttl("run_1", "kept", 100)
    found = await service.get("run_1", "kept")
    assert found.expires_at_s == pytest.approx(really() + 100, abs=10)


async def test_a_lifetime_is_set_and_taken_back(service, database, tmp_path) -> None:
    await save(database, tmp_path)
    await service.set_ttl("run_1", "kept", 100)
    found = await service.get("run_1", "kept")
    assert found.expires_at_s == pytest.approx(time.time() + 100, abs=10)
    await service.set_ttl("run_1", "kept", None)
    assert (await service.get("run_1", "kept")).expires_at_s is None
    with pytest.raises(NotFoundError):
        await service.set_ttl("run_1", "other", 100)


async def test_a_copy_outlives_its_source(service, database, tmp_path) -> None:
    await save(database, tmp_path, is_public=True, user_metadata={"k": "v"})
    copied = await service.copy("run_1", "kept", target_run_id="run_2", ttl_s=None)
    assert (copied.run_id, copied.step, copied.is_public) == ("run_2", 3, False)
    assert copied.user_metadata == {"k": "v"}
    again = await service.copy("run_1", "kept", target_run_id="run_2", ttl_s=None)
    assert again == copied
    await service.delete("run_1", "kept")
    assert [file.read_text() for file in await service.files("run_2", "kept")] == ["w"]


async def test_a_copy_does_not_replace_another(service, database, tmp_path) -> None:
    await save(database, tmp_path, "run_1", text="one")
    await save(database, tmp_path, "run_2", text="other")
    with pytest.raises(AlreadyExistsError, match="another checkpoint"):
        await service.copy("run_1", "kept", target_run_id="run_2", ttl_s=None)


async def test_budgets_are_kept_and_a_dry_run_only_tells(database, tmp_path) -> None:
    """The server's budget ends the oldest checkpoint that may go; nobody's snapshot is touched."""
    held = []
    for name in ("a", "b", "c"):
        temporary = blobs.new_folder(tmp_path / "run_1")
        (temporary / "weights").write_text(name * 1000)
        files = {"weights": blobs.sha256(temporary / "weights")}
        folder = tmp_path / "run_1" / name
        size = blobs.publish(temporary, folder, files=files, facts={})
        record = CheckpointRecord(
            "run_1", name, "nano", LoRAConfig(), float(len(held)), size, False, 3, str(folder)
        )
        held.append(record)
        await database.write(
            lambda conn, record=record: checkpoints.put_checkpoint(conn, record, overwrite=False)
        )
    limits = {"max_storage_bytes": held[0].size_bytes * 2 + 10}
    config = ServerConfig.model_validate({"state_dir": tmp_path, "limits": limits})
    service = Checkpoints(config, database)
    await service.keep("run_1", "a", is_pinned=True, score=None)
    told = await service.prune(is_dry=True)
    assert [(entry.checkpoint.name, entry.reason) for entry in told] == [("b", "max_storage_bytes")]
    assert len(await service.list(run_id="run_1")) == 3
    await service.sweep()
    assert [entry.name for entry in await service.list(run_id="run_1")] == ["a", "c"]
    assert not (tmp_path / "run_1" / "b").exists()
    assert await service.prune() == []
    await service.keep("run_1", "c", is_pinned=None, score=0.5)
    assert [entry.score for entry in await service.list(run_id="run_1")] == [None, 0.5]
    assert [e.checkpoint.name for e in await service.prune(run_id="other", keep_last=1)] == []


async def test_a_budget_that_protected_checkpoints_exceed_is_said(database, tmp_path) -> None:
    limits = {"max_run_storage_bytes": 1}
    config = ServerConfig.model_validate({"state_dir": tmp_path, "limits": limits})
    service = Checkpoints(config, database)
    await save(database, tmp_path, is_pinned=True)
    await service.sweep()
    (warning,) = service.warnings
    assert "limits.max_run_storage_bytes" in warning
    assert "run_1" not in warning  # whose it is, is nobody else's business
    await service.delete("run_1", "kept")
    await service.sweep()
    assert service.warnings == []
