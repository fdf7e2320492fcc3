"""What the present worker holds in memory, and how a run gets there.

A run's state is a function of the log: the newest snapshot whose checksums hold, then the completed
operations after it by the plans they were executed with. The same path serves a restarted server, a
replaced worker and a run that was never loaded. Differences between a replayed result and the logged
one are counted. Called by ``actions.py`` before it uses a model or run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from eztinker.config import ServerConfig
from eztinker.engine.base_identity import fingerprint
from eztinker.engine.memory_guard import MemoryGuard, key_of
from eztinker.engine.model_shape import ModelShape
from eztinker.engine.planning import plan_training
from eztinker.engine.snapshots import Snapshots
from eztinker.engine.supervisor import Supervisor
from eztinker.errors import StorageError
from eztinker.store import blobs
from eztinker.store.database import Database
from eztinker.store.jobs import StoredJob, list_replayable
from eztinker.store.runs import get_run, list_snapshots
from eztinker.types import codec
from eztinker.types.commands import (
    CloseRun,
    Command,
    LoadBaseModel,
    OpenRun,
    RunOptimStep,
    RunPass,
    UnloadBaseModel,
)
from eztinker.types.events import BaseModelLoaded, JobDone
from eztinker.types.operations import OptimStep, PassResult, StepResult, TrainingPass
from eztinker.types.records import BaseModelRecord, RunRecord, SnapshotRecord
from eztinker.types.training import LoRAConfig, Quantization, resident_key

log = logging.getLogger(__name__)

Resolve = Callable[[str], Awaitable[BaseModelRecord]]


class Residents:
    """Base models and runs in the present worker's memory.

    Attributes:
        num_replayed: operations executed again since the start.
        num_differences: of those, how many gave another result than the log has.
        loaded: facts about the resident base models, by name and quantization.
    """

    def __init__(
        self,
        database: Database,
        supervisor: Supervisor,
        snapshots: Snapshots,
        resolve: Resolve,
        config: ServerConfig,
        shape_of: Callable[[Path], ModelShape],
    ) -> None:
        self._database = database
        self._supervisor = supervisor
        self._snapshots = snapshots
        self._resolve = resolve
        self._micro_batch_tokens = config.micro_batch_tokens
        self.memory = MemoryGuard(config, supervisor, self._unload, shape_of)
        self._epoch = -1
        self._arrivals: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._fingerprints: dict[str, str] = {}
        self.loaded: dict[tuple[str, Quantization], BaseModelLoaded] = {}
        # Which tenant of the memory each name stands for; several names may share one.
        self._keys: dict[tuple[str, Quantization], str] = {}
        self.num_replayed = 0
        self.num_differences = 0

    async def need_base(
        self, base_model: str, quantization: Quantization | None = None, *, job_id: str
    ) -> BaseModelRecord:
        """Return when the base model is resident; it stays until ``release(job_id)``.

        Args:
            quantization: how it is to be held; None goes by its name.

        Raises:
            WorkerDied, EZTinkerError: it could not be loaded.
        """
        record = await self._resolve(base_model)
        if quantization is None:
            quantization = record.quantization
        self.memory.hold(key_of(record, quantization), job_id)
        await self._arrive(
            ("base", resident_key(base_model, quantization)),
            lambda: self._load_base(base_model, record, quantization),
        )
        return record

    async def need_run(self, run_id: str, *, job_id: str) -> None:
        """Return when the run is resident with all its completed operations, until ``release(job_id)``.

        Raises:
            WorkerDied, EZTinkerError: it could not be restored.
        """
        while True:
            await self._arrive(("run", run_id), lambda: self._restore(run_id))
            if ("run", run_id) in self._arrivals:  # nobody has sent its model away since
                self.memory.hold_base_of(run_id, job_id)
                return

    def wait_reason(self, job_id: str, run_id: str | None) -> str | None:
        """Why a job that has begun gets no further, in words; None when it does."""
        holders = [job_id, f"restore:{run_id}"]
        return next(filter(None, map(self.memory.wait_reason, holders)), None)

    def release(self, job_id: str) -> None:
        """What a job needed may go."""
        self.memory.release(job_id)

    async def make_room_for_run(
        self, base: BaseModelRecord, quantization: Quantization, run_id: str, lora: LoRAConfig
    ) -> None:
        """Return when a new run fits beside what is resident.

        Raises:
            OutOfMemoryError: it never will.
        """
        await self.memory.admit_run(key_of(base, quantization), run_id, lora)

    async def identity(self, base_model: str) -> tuple[str, str]:
        """Folder and fingerprint of what a name means now.

        Raises:
            EZTinkerError: nothing of that name can be found.
        """
        folder = (await self._resolve(base_model)).folder
        if folder not in self._fingerprints:
            self._fingerprints[folder] = await asyncio.to_thread(fingerprint, Path(folder))
        return folder, self._fingerprints[folder]

    def note_run(self, run_id: str) -> None:
        """The run was just created in the worker."""
        self._forget_if_new_epoch()
        self._arrivals["run", run_id] = asyncio.ensure_future(_nothing())

    async def evict(self, run_id: str) -> None:
        """The run's state in the worker is not that of the log, or not needed: restore it next time."""
        self._arrivals.pop(("run", run_id), None)
        self.memory.drop_run(run_id)
        await self._supervisor.tell(CloseRun(run_id))

    async def _unload(self, key: str) -> None:
        """Send a base model and its runs away; the runs come back from the log when they are needed."""
        names = [known for known, tenant in self._keys.items() if tenant == key]
        for run_id in self.memory.drop_base(key):
            self._arrivals.pop(("run", run_id), None)
            await self._supervisor.tell(CloseRun(run_id))
        for base_model, quantization in names:
            del self._keys[base_model, quantization]
            self._arrivals.pop(("base", resident_key(base_model, quantization)), None)
            self.loaded.pop((base_model, quantization), None)
        if names:
            await self._supervisor.tell(UnloadBaseModel(*names[0]))

    # Arrival --------------------------------------------------------------------------------------

    async def _arrive(self, key: tuple[str, str], bring: Callable[[], Awaitable[None]]) -> None:
        """Bring something in once, however many wait for it; a failure is not remembered."""
        await self._supervisor.ready.wait()
        self._forget_if_new_epoch()
        task = self._arrivals.get(key)
        if task is None:
            task = self._arrivals[key] = asyncio.ensure_future(bring())  # type: ignore[arg-type]
        try:
            # One waiting job may be cancelled; the others still want it.
            await asyncio.shield(task)
        except BaseException:
            if task.done() and self._arrivals.get(key) is task:
                del self._arrivals[key]
            raise

    def _forget_if_new_epoch(self) -> None:
        if self._epoch != self._supervisor.epoch:
            self._epoch = self._supervisor.epoch
            self._arrivals.clear()
            self.loaded.clear()
            self._keys.clear()
            self.memory.forget()

    async def _load_base(
        self, base_model: str, record: BaseModelRecord, quantization: Quantization
    ) -> None:
        key, epoch = key_of(record, quantization), self._epoch
        allowed = await self.memory.admit_base(record, quantization)
        try:
            answer = await self._supervisor.request(
                f"base:{resident_key(base_model, quantization)}",
                LoadBaseModel(
                    base_model,
                    record.folder,
                    quantization,
                    num_copies=allowed.num_copies,
                    cache_tokens=allowed.cache_tokens,
                ),
                epoch=epoch,
            )
        except BaseException:
            if key not in self._keys.values():
                self.memory.drop_base(key)
            raise
        assert isinstance(answer, BaseModelLoaded)
        self.loaded[base_model, quantization] = answer
        self._keys[base_model, quantization] = key
        self.memory.settle_base(key, answer.size_bytes)

    # Restoring ------------------------------------------------------------------------------------

    async def _restore(self, run_id: str) -> None:
        holder = f"restore:{run_id}"
        try:
            await self._restore_on_base(run_id, holder)
        finally:
            self.release(holder)

    async def _restore_on_base(self, run_id: str, holder: str) -> None:
        run = await self._database.read(lambda connection: get_run(connection, run_id))
        epoch = self._epoch
        await self._refuse_other_base(run)
        base = await self.need_base(run.base_model, run.quantization, job_id=holder)
        await self.make_room_for_run(base, run.quantization, run_id, run.lora)
        snapshot = await self._newest_valid_snapshot(run_id)
        if snapshot is None and run.from_checkpoint:
            raise StorageError(
                f"Run {run_id} cannot be restored: it began with a checkpoint, and its copy of that is "
                "damaged. Load the checkpoint into a new run.",
                code="run_lost",
            )
        key = f"open:{run_id}"
        await self._supervisor.request(
            key,
            OpenRun(
                job_id=key,
                run_id=run_id,
                base_model=run.base_model,
                lora=run.lora,
                seed=run.seed,
                snapshot_folder=str(self._snapshots.path_of(snapshot)) if snapshot else None,
                quantization=run.quantization,
            ),
            epoch=epoch,
        )
        after_seq = snapshot.seq if snapshot else 0
        jobs = await self._database.read(
            lambda connection: list_replayable(connection, run_id, after_seq=after_seq)
        )
        for job in jobs:
            await self._replay(run, job, epoch=epoch)
        self.num_replayed += len(jobs)

    async def _refuse_other_base(self, run: RunRecord) -> None:
        folder, found = await self.identity(run.base_model)
        if run.base_fingerprint not in ("", found):
            raise StorageError(
                f"Run {run.run_id} was made on the base model {run.base_model!r} in {run.base_folder}; "
                f"by that name another model is found now, in {folder}. Start the server with "
                f"--alias {run.base_model}=FOLDER, naming a folder with the first one's files, or "
                "delete the run.",
                code="base_model_changed",
            )

    async def _newest_valid_snapshot(self, run_id: str) -> SnapshotRecord | None:
        held = await self._database.read(lambda connection: list_snapshots(connection, run_id))
        for snapshot in held:
            try:
                await asyncio.to_thread(blobs.verify, self._snapshots.path_of(snapshot))
            except StorageError as error:
                log.warning("Snapshot of %s is unusable: %s", run_id, error.message)
            else:
                return snapshot
        return None

    async def _replay(self, run: RunRecord, job: StoredJob, *, epoch: int) -> None:
        if job.payload is None:
            raise StorageError(
                f"Run {run.run_id} cannot be restored: its snapshots are damaged and the log no "
                f"longer holds operation {job.seq}. Load one of its checkpoints into a new run.",
                code="run_lost",
            )
        answer = await self._supervisor.request(
            f"replay:{job.job_id}", self._replay_command(job), epoch=epoch
        )
        assert isinstance(answer, JobDone)
        self._snapshots.note_compute(run.run_id, answer.compute_s)
        if not _same_result(job, answer):
            self.num_differences += 1
            log.warning("Replay of %s gave another result than before.", job.job_id)

    def _replay_command(self, job: StoredJob) -> Command:
        operation = job.operation()
        key = f"replay:{job.job_id}"
        assert job.run_id is not None
        assert job.seq is not None
        if isinstance(operation, TrainingPass):
            plan = job.plan or plan_training(operation, budget_tokens=self._micro_batch_tokens)
            # Alone, among as many rows as it had: the same bits whoever else is there now.
            return RunPass(key, job.run_id, operation, replace(plan, may_share=False))
        if isinstance(operation, OptimStep):
            return RunOptimStep(key, job.run_id, operation)
        raise StorageError(
            f"Run {job.run_id} cannot be restored: the snapshot that followed its {job.kind} "
            f"(operation {job.seq}) is damaged.",
            code="run_lost",
        )


def _same_result(job: StoredJob, answer: JobDone) -> bool:
    """Whether a replay reports the same numbers, to the last bit."""
    before = job.decoded_result()
    if isinstance(before, PassResult):
        return before.loss == codec.decode(answer.result, PassResult).loss
    if isinstance(before, StepResult):
        return before == codec.decode(answer.result, StepResult)
    return True


async def _nothing() -> None:
    return None
