"""A snapshot is due when a replay would take too long, but not while writing would cost too much."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from eztinker.config import ServerConfig
from eztinker.engine.executors.base import WorkerDied
from eztinker.engine.snapshots import KEPT, Snapshots
from eztinker.errors import StorageError
from eztinker.store import blobs, runs
from eztinker.store.database import Database
from eztinker.types.commands import WriteState
from eztinker.types.events import StateWritten
from tests.unit.engine.fake_worker import World
from tests.unit.engine.harness import Engine, a_pass, a_step, ended

BUDGET_S = 2.0
COST_SHARE = 0.02


class Writer:
    """Stands for the supervisor: writes a state after ``delay_s``, or dies."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.dies = False
        self.commands: list[WriteState] = []

    async def post(self, key: str, command: WriteState, *, epoch: int) -> asyncio.Future:
        assert key == command.job_id
        self.commands.append(command)
        return asyncio.ensure_future(self._write(command, epoch))

    async def _write(self, command: WriteState, epoch: int) -> StateWritten:
        await asyncio.sleep(self.delay_s)
        if self.dies:
            raise WorkerDied("test")
        file = Path(command.folder) / "state"
        file.write_bytes(b"state")
        files = {"state": blobs.sha256(file)}
        return StateWritten(epoch, command.job_id, command.run_id, 3, files, 5)


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def snapshots(tmp_path: Path, writer: Writer) -> Snapshots:
    values = {
        "state_dir": tmp_path,
        "replay_budget_s": BUDGET_S,
        "snapshot_cost_share": COST_SHARE,
    }
    config = ServerConfig.model_validate(values)
    return Snapshots(config, Database(tmp_path), writer)  # type: ignore[arg-type]


def test_due_when_the_replay_budget_is_used_up(snapshots: Snapshots) -> None:
    assert not snapshots.is_due("run_1", now_s=0.0)
    snapshots.note_compute("run_1", BUDGET_S / 2)
    assert not snapshots.is_due("run_1", now_s=1e9)
    snapshots.note_compute("run_1", BUDGET_S / 2)
    assert snapshots.is_due("run_1", now_s=0.0)
    assert not snapshots.is_due("run_2", now_s=1e9)


async def test_a_written_snapshot_starts_the_account_anew(
    snapshots: Snapshots, writer: Writer, tmp_path: Path
) -> None:
    snapshots.note_compute("run_1", BUDGET_S)
    record = await snapshots.write("run_1", 7, epoch=1)
    assert not snapshots.is_due("run_1", now_s=1e9)
    assert (record.run_id, record.seq, record.step) == ("run_1", 7, 3)
    assert record.folder == str(tmp_path / "snapshots" / "run_1" / "7")
    manifest = blobs.verify(Path(record.folder))
    assert (manifest["run_id"], manifest["seq"], manifest["step"]) == ("run_1", 7, 3)
    assert writer.commands[0].with_optimizer
    assert not writer.commands[0].background


async def test_writing_takes_no_more_than_its_share_of_the_time(
    snapshots: Snapshots, writer: Writer
) -> None:
    writer.delay_s = 0.05
    before_s = time.monotonic()
    await snapshots.write("run_1", 7, epoch=1)
    after_s = time.monotonic()
    snapshots.note_compute("run_1", 100 * BUDGET_S)
    assert not snapshots.is_due("run_1", now_s=before_s + writer.delay_s / COST_SHARE - 0.5)
    assert snapshots.is_due("run_1", now_s=after_s + (after_s - before_s) / COST_SHARE)


async def test_a_failed_write_publishes_nothing_and_is_still_owed(
    snapshots: Snapshots, writer: Writer, tmp_path: Path
) -> None:
    """What would have to be replayed has not become less."""
    writer.dies = True
    snapshots.note_compute("run_1", BUDGET_S)
    with pytest.raises(WorkerDied):
        await snapshots.write("run_1", 7, epoch=1)
    assert list((tmp_path / "snapshots" / "run_1").iterdir()) == []
    assert snapshots.is_due("run_1", now_s=1e9)


async def test_a_failure_in_the_background_disturbs_nobody(
    tmp_path: Path, snapshots: Snapshots, writer: Writer
) -> None:
    snapshots.note_compute("run_1", 1e6)
    writer.dies = True
    await snapshots.begin("run_1", 7, epoch=1)
    await snapshots.settle()

    async def refuse(*_args: object, **_kwargs: object) -> asyncio.Future:
        raise StorageError("no")

    writer.post = refuse  # type: ignore[method-assign]
    await snapshots.begin("run_1", 9, epoch=1)
    await snapshots.settle()
    assert list((tmp_path / "snapshots" / "run_1").iterdir()) == []
    assert snapshots.is_due("run_1", now_s=1e9)


async def test_a_snapshot_that_comes_after_its_run_is_gone_leaves_no_trace(
    tmp_path: Path, snapshots: Snapshots
) -> None:
    snapshots._database.open()
    try:
        await snapshots.begin("run_gone", 7, epoch=1)
        await snapshots.settle()
        assert await snapshots._database.read(runs.list_snapshot_folders) == set()
    finally:
        snapshots._database.close()
    assert list((tmp_path / "snapshots" / "run_gone").iterdir()) == []


def test_a_forgotten_run_owes_nothing(snapshots: Snapshots) -> None:
    snapshots.note_compute("run_1", BUDGET_S)
    snapshots.forget("run_1")
    assert not snapshots.is_due("run_1", now_s=1e9)


async def test_the_engine_takes_them_after_steps_only_and_keeps_the_newest(
    tmp_path: Path, world: World
) -> None:
    world.compute_s = 1.0
    engine = await Engine(tmp_path, world, replay_budget_s=1.5, snapshot_cost_share=1.0).start()
    await ended(await engine.create())
    for _ in range(3):
        for operation in (a_pass(1), a_pass(2), a_step()):
            await engine.do(operation)
        await engine.manager._snapshots.settle()

    def held(connection: sa.Connection) -> list[int]:
        return [snapshot.seq for snapshot in runs.list_snapshots(connection, "run_1")]

    assert await engine.database.read(held) == [9, 6]
    folders = {path.name for path in (tmp_path / "snapshots" / "run_1").iterdir()}
    assert folders == {"9", "6"}
    assert len(folders) == KEPT
    await engine.stop()


async def test_a_restart_in_a_relative_state_folder_keeps_the_snapshots(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default state folder is relative."""
    monkeypatch.chdir(tmp_path)
    world.compute_s = 1.0
    settings = {"replay_budget_s": 1.0, "snapshot_cost_share": 1.0}
    engine = await Engine(Path("state"), world, **settings).start()
    await ended(await engine.create())
    for operation in (a_pass(1), a_step()):
        await engine.do(operation)
    await engine.manager._snapshots.settle()
    await engine.stop()
    engine = await Engine(Path("state"), world, **settings).start()
    assert [path.name for path in (tmp_path / "state/snapshots/run_1").iterdir()] == ["2"]
    await engine.stop()
