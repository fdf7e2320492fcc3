"""How each kind of operation is executed, and what its commit changes beside the job itself.

An action brings in what the operation needs, asks the worker, and returns an ``Outcome``: the result
and a function that writes the side effects in the job's own transaction. It changes nothing durable
itself, files under temporary names apart. Called by ``loop.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from eztinker import steady_clock
from eztinker.config import ServerConfig
from eztinker.engine.checkpoint_folders import checkpoint_folder
from eztinker.engine.planning import longest_group, plan_pass, plan_training
from eztinker.engine.recovery import Residents
from eztinker.engine.snapshots import KEPT, Snapshots
from eztinker.engine.supervisor import Answer, Supervisor
from eztinker.errors import EZTinkerError
from eztinker.store import blobs, checkpoints, runs
from eztinker.store.database import Database
from eztinker.store.jobs import StoredJob
from eztinker.types import codec
from eztinker.types.commands import (
    Command,
    OpenRun,
    ReadState,
    RunEvaluate,
    RunOptimStep,
    RunPass,
    RunSample,
    WriteState,
)
from eztinker.types.events import JobDone, StateRead, StateWritten
from eztinker.types.operations import (
    CheckpointLoaded,
    CheckpointSaved,
    CreateRun,
    Evaluate,
    LoadCheckpoint,
    Operation,
    OptimStep,
    RunCreated,
    Sample,
    SaveCheckpoint,
    StepResult,
    TrainingPass,
)
from eztinker.types.plans import PassPlan
from eztinker.types.records import CheckpointRecord
from eztinker.types.training import Quantization


def _no_side_effect(_connection: sa.Connection) -> list[str]:
    return []


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished operation, not yet committed.

    Attributes:
        result: encoded answer.
        side_effects: run in the transaction of the job's end; returns snapshot folders to drop.
        plan: as executed, for the replay.
        compute_s: device seconds.
    """

    result: bytes
    side_effects: Callable[[sa.Connection], list[str]] = _no_side_effect
    plan: PassPlan | None = None
    compute_s: float = 0.0


@dataclass(slots=True, eq=False)
class Task:
    """One job on its way through the engine.

    Attributes:
        handed_over: the worker has been asked; should it die now, the job may be the reason.
        epoch: the worker's life in which it is executed.
        streamed: the worker tells of its tokens as they are drawn.
    """

    job: StoredJob
    operation: Operation
    handed_over: bool = False
    epoch: int = -1
    streamed: bool = False


class Actions:
    """Executes operations of every kind."""

    def __init__(
        self,
        config: ServerConfig,
        database: Database,
        supervisor: Supervisor,
        residents: Residents,
        snapshots: Snapshots,
    ) -> None:
        self._config = config
        self._database = database
        self._supervisor = supervisor
        self._residents = residents
        self._snapshots = snapshots

    async def execute(self, task: Task) -> Outcome:
        """Execute one operation.

        Raises:
            WorkerDied: it has had no effect and may be tried again.
            EZTinkerError: it has had no effect and will not succeed.
        """
        action: Callable[..., Awaitable[Outcome]] = {
            CreateRun: self._create,
            TrainingPass: self._pass,
            OptimStep: self._optim_step,
            SaveCheckpoint: self._save,
            LoadCheckpoint: self._load,
            Sample: self._sample,
            Evaluate: self._evaluate,
        }[type(task.operation)]
        await self._supervisor.ready.wait()
        task.epoch = self._supervisor.epoch
        try:
            return await action(task, task.operation)
        finally:
            self._residents.release(task.job.job_id)

    async def _create(self, task: Task, operation: CreateRun) -> Outcome:
        run_id = _run_id(task)
        base = await self._residents.need_base(
            operation.base_model, operation.quantization, job_id=task.job.job_id
        )
        await self._residents.make_room_for_run(
            base, operation.quantization, run_id, operation.lora
        )
        command = OpenRun(
            task.job.job_id,
            run_id,
            operation.base_model,
            operation.lora,
            operation.seed,
            quantization=operation.quantization,
        )
        try:
            done = _done(await self._ask(task, command))
        except EZTinkerError:
            self._residents.memory.drop_run(run_id)
            raise
        self._residents.note_run(run_id)
        created = codec.decode(done.result, RunCreated)
        if operation.source_run_id is not None and operation.source_name is not None:
            return await self._begin_from(
                task, operation, created, operation.source_run_id, operation.source_name
            )

        folder, fingerprint = await self._residents.identity(operation.base_model)

        def side_effects(connection: sa.Connection) -> list[str]:
            runs.complete_creation(
                connection, created, base_folder=folder, base_fingerprint=fingerprint
            )
            return []

        return Outcome(done.result, side_effects)

    async def _begin_from(
        self,
        task: Task,
        operation: CreateRun,
        created: RunCreated,
        source_run_id: str,
        source_name: str,
    ) -> Outcome:
        """Give a new run a checkpoint's state, and keep that as the run's first snapshot."""
        run_id = created.run_id
        try:
            checkpoint = await self._checkpoint(source_run_id, source_name)
            command = ReadState(
                task.job.job_id, run_id, checkpoint.folder, operation.with_optimizer
            )
            read = await self._ask(task, command)
            assert isinstance(read, StateRead)
            snapshot = await self._snapshots.write(run_id, _seq(task), epoch=task.epoch)
        except EZTinkerError:
            await self._residents.evict(run_id)
            raise
        created = replace(created, source_run_id=source_run_id, source_name=source_name)

        folder, fingerprint = await self._residents.identity(operation.base_model)

        def side_effects(connection: sa.Connection) -> list[str]:
            runs.complete_creation(
                connection, created, base_folder=folder, base_fingerprint=fingerprint
            )
            runs.set_step(connection, run_id, read.step)
            return runs.insert_snapshot(connection, snapshot, keep=KEPT)

        return Outcome(codec.encode(created), side_effects)

    async def _pass(self, task: Task, operation: TrainingPass) -> Outcome:
        room_tokens, checkpointing = await self._room_for_pass(task, longest_group(operation))
        plan = plan_training(
            operation,
            budget_tokens=min(self._config.micro_batch_tokens, room_tokens),
            may_share=not self._config.deterministic,
            checkpointing=checkpointing and not operation.forward_only,
        )
        command = RunPass(task.job.job_id, _run_id(task), operation, plan)
        done = _done(await self._ask(task, command))
        return Outcome(done.result, plan=done.executed_plan, compute_s=done.compute_s)

    async def _room_for_pass(self, task: Task, longest: int) -> tuple[int, bool]:
        memory = self._residents.memory
        while True:
            await self._residents.need_run(_run_id(task), job_id=task.job.job_id)
            room = await memory.pass_room(_run_id(task), longest)
            if room is not None:
                return room
            await memory.stand_back(task.job.job_id)

    async def _optim_step(self, task: Task, operation: OptimStep) -> Outcome:
        run_id = _run_id(task)
        await self._residents.need_run(run_id, job_id=task.job.job_id)
        command = RunOptimStep(task.job.job_id, run_id, operation)
        done = _done(await self._ask(task, command))
        step = codec.decode(done.result, StepResult).step

        def side_effects(connection: sa.Connection) -> list[str]:
            runs.set_step(connection, run_id, step)
            return []

        return Outcome(done.result, side_effects, compute_s=done.compute_s)

    async def _save(self, task: Task, operation: SaveCheckpoint) -> Outcome:
        run_id = _run_id(task)
        run = await self._database.read(lambda connection: runs.get_run(connection, run_id))
        if not operation.overwrite:
            await self._database.read(
                lambda connection: checkpoints.refuse_existing(connection, run_id, operation.name)
            )
        await self._residents.need_run(run_id, job_id=task.job.job_id)
        target = checkpoint_folder(self._config, run_id, operation.name)
        written, size_bytes = await self._write_checkpoint(
            task, operation, target, run.quantization
        )
        saved = CheckpointSaved(run_id, operation.name, str(target), size_bytes, written.step)
        now_s = steady_clock.now_s()
        record = CheckpointRecord(
            run_id=run_id,
            name=operation.name,
            base_model=run.base_model,
            lora=run.lora,
            created_at_s=now_s,
            size_bytes=size_bytes,
            is_sampler=not operation.with_optimizer,
            step=written.step,
            folder=str(target),
            expires_at_s=None if operation.ttl_s is None else now_s + operation.ttl_s,
            user_metadata=operation.user_metadata,
            owner=run.owner,
            quantization=run.quantization,
        )

        def side_effects(connection: sa.Connection) -> list[str]:
            checkpoints.put_checkpoint(connection, record, overwrite=True)
            return []

        return Outcome(codec.encode(saved), side_effects)

    async def _write_checkpoint(
        self, task: Task, operation: SaveCheckpoint, target: Path, quantization: Quantization
    ) -> tuple[StateWritten, int]:
        temporary = await asyncio.to_thread(blobs.new_folder, target.parent)
        try:
            command = WriteState(
                task.job.job_id, _run_id(task), str(temporary), operation.with_optimizer
            )
            written = await self._ask(task, command)
            assert isinstance(written, StateWritten)
            facts = {
                "run_id": written.run_id,
                "name": operation.name,
                "step": written.step,
                "with_optimizer": operation.with_optimizer,
                "quantization": quantization,
            }
            size_bytes = await asyncio.to_thread(
                blobs.publish, temporary, target, files=written.files, facts=facts
            )
        except BaseException:
            await asyncio.to_thread(blobs.discard, temporary)
            raise
        return written, size_bytes

    async def _load(self, task: Task, operation: LoadCheckpoint) -> Outcome:
        run_id = _run_id(task)
        checkpoint = await self._checkpoint(operation.source_run_id, operation.name)
        await self._residents.need_run(run_id, job_id=task.job.job_id)
        command = ReadState(task.job.job_id, run_id, checkpoint.folder, operation.with_optimizer)
        read = await self._ask(task, command)
        assert isinstance(read, StateRead)
        # The checkpoint may be deleted tomorrow, so the replay starts from a copy made now.
        snapshot = await self._snapshots.write(run_id, _seq(task), epoch=task.epoch)
        loaded = CheckpointLoaded(run_id, operation.name, read.step, operation.with_optimizer)

        def side_effects(connection: sa.Connection) -> list[str]:
            runs.set_step(connection, run_id, read.step)
            return runs.insert_snapshot(connection, snapshot, keep=KEPT)

        return Outcome(codec.encode(loaded), side_effects)

    async def _sample(self, task: Task, operation: Sample) -> Outcome:
        weights = operation.weights
        folder, quantization = None, "none"
        if weights.run_id is not None and weights.checkpoint is not None:
            checkpoint = await self._checkpoint(weights.run_id, weights.checkpoint)
            # Its numbers belong to the base as it was held when they were trained.
            folder, quantization = checkpoint.folder, checkpoint.quantization
            await self._residents.need_base(
                weights.base_model, quantization, job_id=task.job.job_id
            )
        elif weights.run_id is not None:
            await self._residents.need_run(weights.run_id, job_id=task.job.job_id)
        else:
            base = await self._residents.need_base(weights.base_model, job_id=task.job.job_id)
            quantization = base.quantization
        command = RunSample(
            task.job.job_id, operation, folder, quantization, streamed=task.streamed
        )
        done = _done(await self._ask(task, command))
        return Outcome(done.result, compute_s=done.compute_s)

    async def _evaluate(self, task: Task, operation: Evaluate) -> Outcome:
        await self._residents.need_run(_run_id(task), job_id=task.job.job_id)
        lengths = [len(item.prompt_tokens) + len(item.response_tokens) for item in operation.items]
        plan = plan_pass(lengths, budget_tokens=self._config.micro_batch_tokens)
        command = RunEvaluate(task.job.job_id, _run_id(task), operation, plan)
        done = _done(await self._ask(task, command))
        return Outcome(done.result, compute_s=done.compute_s)

    async def _checkpoint(self, run_id: str, name: str) -> CheckpointRecord:
        record = await self._database.read(
            lambda connection: checkpoints.get_checkpoint(connection, run_id, name)
        )
        await asyncio.to_thread(blobs.verify, Path(record.folder))
        return record

    async def _ask(self, task: Task, command: Command) -> Answer:
        task.handed_over = True
        return await self._supervisor.request(task.job.job_id, command, epoch=task.epoch)


def _run_id(task: Task) -> str:
    assert task.job.run_id is not None
    return task.job.run_id


def _seq(task: Task) -> int:
    assert task.job.seq is not None
    return task.job.seq


def _done(answer: Answer) -> JobDone:
    assert isinstance(answer, JobDone)
    return answer
