"""When a run's state is written down, and the writing.

A snapshot bounds what a recovery has to replay. It is due when the compute since the last one
exceeds the replay budget, but never so often that writing takes more than its share of the time. The
worker copies the tensors at once and writes in the background; the run goes on meanwhile. Called by
``actions.py`` after an optimizer step.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from eztinker.config import ServerConfig
from eztinker.engine.executors.base import WorkerDied
from eztinker.engine.supervisor import Answer, Supervisor
from eztinker.errors import EZTinkerError
from eztinker.ids import folder_name
from eztinker.store import blobs
from eztinker.store.database import Database
from eztinker.store.runs import insert_snapshot
from eztinker.types.commands import WriteState
from eztinker.types.events import StateWritten
from eztinker.types.records import SnapshotRecord

log = logging.getLogger(__name__)

KEPT = 2
"""Snapshots of a run that are kept: should the newest be damaged, the other takes over."""


@dataclass(slots=True)
class _Account:
    """What one run owes and what its last snapshot cost."""

    compute_s: float = 0.0
    write_s: float = 0.0
    last_at_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class _Pending:
    """A snapshot that the worker has been asked for; it settles a debt of ``compute_s``."""

    run_id: str
    seq: int
    folder: Path
    answer: asyncio.Future[Answer]
    compute_s: float


class Snapshots:
    """Snapshots of all runs of a server."""

    def __init__(self, config: ServerConfig, database: Database, supervisor: Supervisor) -> None:
        self._config = config
        self._database = database
        self._supervisor = supervisor
        self._accounts: dict[str, _Account] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def folder(self) -> Path:
        """Where snapshots lie: ``<run>/<seq>``."""
        return self._config.state_dir / "snapshots"

    def folder_of(self, run_id: str) -> Path:
        """Where a run's snapshots lie."""
        return self.folder / folder_name(run_id)

    def note_compute(self, run_id: str, compute_s: float) -> None:
        """So much would have to be replayed in addition."""
        self._accounts.setdefault(run_id, _Account()).compute_s += compute_s

    def is_due(self, run_id: str, *, now_s: float) -> bool:
        """Whether the run's next snapshot should be taken at ``now_s`` (monotonic)."""
        account = self._accounts.setdefault(run_id, _Account())
        if account.compute_s < self._config.replay_budget_s:
            return False
        return now_s - account.last_at_s >= account.write_s / self._config.snapshot_cost_share

    async def begin(self, run_id: str, seq: int, *, epoch: int) -> None:
        """Take a snapshot in the background, of the state as it is when this returns.

        The caller lets no other operation of the run start before. A failure is logged; the log
        still has everything.
        """
        try:
            pending = await self._start(run_id, seq, epoch=epoch, background=True)
        except (WorkerDied, EZTinkerError) as error:
            log.warning("Snapshot of %s was not begun: %s", run_id, error)
            return
        task = asyncio.create_task(self._complete_quietly(pending))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def write(self, run_id: str, seq: int, *, epoch: int) -> SnapshotRecord:
        """Write the run's present state, which includes operation ``seq``, and publish it.

        Raises:
            WorkerDied, EZTinkerError: nothing was published.
        """
        return await self._complete(await self._start(run_id, seq, epoch=epoch, background=False))

    def path_of(self, snapshot: SnapshotRecord) -> Path:
        """Where a snapshot lies now, also after the state folder was moved."""
        return self.folder_of(snapshot.run_id).absolute() / str(snapshot.seq)

    async def drop(self, folders: list[str]) -> None:
        """Remove folders that no row names any more."""
        for folder in folders:
            await asyncio.to_thread(blobs.discard, Path(folder))

    def forget(self, run_id: str) -> None:
        """The run is gone."""
        self._accounts.pop(run_id, None)

    async def settle(self) -> None:
        """Wait for snapshots under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _start(self, run_id: str, seq: int, *, epoch: int, background: bool) -> _Pending:
        account = self._accounts.setdefault(run_id, _Account())
        account.last_at_s = time.monotonic()
        folder = await asyncio.to_thread(blobs.new_folder, self.folder_of(run_id))
        key = f"snapshot:{run_id}:{seq}"
        command = WriteState(key, run_id, str(folder), with_optimizer=True, background=background)
        try:
            answer = await self._supervisor.post(key, command, epoch=epoch)
        except BaseException:
            await asyncio.to_thread(blobs.discard, folder)
            raise
        compute_s, account.compute_s = account.compute_s, 0.0
        return _Pending(run_id, seq, folder, answer, compute_s)

    async def _complete(self, pending: _Pending) -> SnapshotRecord:
        target = self.folder_of(pending.run_id).absolute() / str(pending.seq)
        account = self._accounts.setdefault(pending.run_id, _Account())
        try:
            written = await pending.answer
            assert isinstance(written, StateWritten)
            facts = {"run_id": pending.run_id, "seq": pending.seq, "step": written.step}
            size_bytes = await asyncio.to_thread(
                blobs.publish, pending.folder, target, files=written.files, facts=facts
            )
        except BaseException:
            account.compute_s += pending.compute_s
            await asyncio.to_thread(blobs.discard, pending.folder)
            raise
        finally:
            account.write_s = time.monotonic() - account.last_at_s
        return SnapshotRecord(
            run_id=pending.run_id,
            seq=pending.seq,
            step=written.step,
            folder=str(target),
            created_at_s=time.time(),
            size_bytes=size_bytes,
        )

    async def _complete_quietly(self, pending: _Pending) -> None:
        try:
            await self._keep(await self._complete(pending))
        except WorkerDied:
            pass  # recovery replays from the one before
        except EZTinkerError as error:
            log.warning("Snapshot of %s was not taken: %s", pending.run_id, error.message)

    async def _keep(self, snapshot: SnapshotRecord) -> None:
        """Record a published snapshot; one that cannot be recorded is nobody's and goes."""
        try:
            dropped = await self._database.write(
                lambda connection: insert_snapshot(connection, snapshot, keep=KEPT)
            )
        except EZTinkerError:
            await self.drop([snapshot.folder])
            raise
        await self.drop(dropped)
