"""A service without engine and store: remembers what it was asked, answers at once with fixed figures.

It keeps the contract of ``service/`` (signatures, errors, admission) and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eztinker.config import ServerConfig
from eztinker.errors import AlreadyExistsError, ConflictError, NotFoundError
from eztinker.ids import new_job_id, new_run_id
from eztinker.service import admission
from eztinker.service.accounts import Accounts
from eztinker.service.base_models import BaseModels
from eztinker.service.retention import Doomed
from eztinker.types.operations import (
    CheckpointLoaded,
    CheckpointSaved,
    CreateRun,
    Evaluate,
    EvaluationResult,
    LoadCheckpoint,
    Operation,
    OptimStep,
    PassResult,
    Sample,
    SampleResult,
    SaveCheckpoint,
    StepResult,
    TrainingPass,
    kind_of,
)
from eztinker.types.principal import Principal
from eztinker.types.records import CheckpointRecord, JobRecord, RunRecord
from eztinker.types.sampling import SampledSequence

CREATED_AT_S = 1_700_000_000.25


class FakeService:
    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.base_models = BaseModels(config)
        self.runs = FakeRuns(self)
        self.submissions = self.jobs = FakeJobs(self)
        self.checkpoints = FakeCheckpoints(self)
        self.accounts = Accounts(config, NoDatabase())  # pyright: ignore[reportArgumentType]
        self.started = 0
        self.stopped = 0

    async def start(self) -> None:
        self.started += 1

    async def stop(self) -> None:
        self.stopped += 1

    def seen_by(self, principal: Principal) -> FakeService:
        return self

    def health(self) -> dict[str, Any]:
        return {"engine": "ready", "queued_jobs": 0, "running_jobs": 0, "uptime_s": 1.0}

    def state(self) -> Any:
        """Everything a request could have changed, for comparison."""
        return (
            sorted(self.runs.all.items()),
            sorted(self.jobs.operations),
            sorted(self.checkpoints.all),
            self.accounts.list(),
        )


class NoDatabase:
    async def write(self, query: Any) -> None:
        return None


class FakeRuns:
    def __init__(self, service: FakeService) -> None:
        self.service = service
        self.all: dict[str, RunRecord] = {}
        self.by_key: dict[str, tuple[str, RunRecord]] = {}

    async def create(self, *, base_model, lora, loss, run_id, seed, quantization, user_metadata=None, idempotency_key=None, request_digest="") -> RunRecord:  # fmt: skip
        base = await self.service.base_models.resolve(base_model)
        operation = CreateRun(base_model, lora, seed or 0, quantization)
        admission.check(operation, base=base, limits=self.service.config.limits)
        admission.check_loss(loss, name_field="loss_config.loss_type", config_field="loss_config")
        if idempotency_key in self.by_key:
            digest, run = self.by_key[idempotency_key]
            if digest != request_digest:
                raise ConflictError("same key, another request", code="idempotency_conflict")
            return run
        if run_id in self.all:
            raise AlreadyExistsError(f"run {run_id} exists", code="run_exists", field="run_id")
        run = RunRecord(
            run_id=run_id or new_run_id(),
            base_model=base_model,
            lora=lora,
            loss=loss,
            seed=seed or 0,
            quantization=quantization,
            status="ready",
            created_at_s=CREATED_AT_S,
            device="cpu",
            num_trainable_parameters=12,
            target_modules=["q_proj"],
        )
        self.all[run.run_id] = run
        if idempotency_key:
            self.by_key[idempotency_key] = (request_digest, run)
        return run

    async def known(self, run_id: str) -> RunRecord:
        return await self.get(run_id)

    async def get(self, run_id: str) -> RunRecord:
        if run_id not in self.all:
            raise NotFoundError(f"no run {run_id}", code="run_not_found", field="run_id")
        return self.all[run_id]

    async def list(self, *, limit: int, offset: int, base_model: str | None):
        found = [r for r in self.all.values() if base_model in (None, r.base_model)][::-1]
        return found[offset : offset + limit], len(found)

    async def delete(self, run_id: str) -> None:
        await self.get(run_id)
        del self.all[run_id]


class FakeJobs:
    """Takes operations and stands for the jobs they become. Jobs end at once; with ``hold`` they stay queued until it is set."""

    def __init__(self, service: FakeService) -> None:
        self.service = service
        self.operations: dict[str, Operation] = {}
        self.records: dict[str, JobRecord] = {}
        self.by_key: dict[tuple[str | None, str], tuple[str, str]] = {}
        self.hold: asyncio.Event | None = None
        self.sampled = [SampledSequence([], [], "length")]

    async def submit(
        self,
        operation: Operation,
        *,
        run_id,
        idempotency_key=None,
        request_digest="",
        streamed=False,
    ):
        await self._admit(operation, run_id)
        if idempotency_key is not None and (run_id, idempotency_key) in self.by_key:
            digest, job_id = self.by_key[run_id, idempotency_key]
            if digest != request_digest:
                raise ConflictError("same key, another request", code="idempotency_conflict")
            return self.records[job_id]
        job = JobRecord(
            job_id=new_job_id(),
            run_id=run_id,
            seq=1,
            kind=kind_of(operation),
            status="queued",
            created_at_s=CREATED_AT_S,
            queue_position=0,
            wait_reason="waits for its turn",
        )
        self.operations[job.job_id] = operation
        self.records[job.job_id] = job
        if idempotency_key is not None:
            self.by_key[run_id, idempotency_key] = (request_digest, job.job_id)
        return job

    async def _admit(self, operation: Operation, run_id: str | None) -> None:
        if run_id is not None:
            base_name = (await self.service.runs.get(run_id)).base_model
        else:
            assert isinstance(operation, Sample)
            base_name = operation.weights.base_model
        base = await self.service.base_models.resolve(base_name)
        admission.check(operation, base=base, limits=self.service.config.limits)
        if isinstance(operation, LoadCheckpoint):
            await self.service.checkpoints.get(operation.source_run_id, operation.name)

    async def operation(self, job_id: str) -> Operation:
        return self.operations[job_id]

    async def wait_for_end(self, job_id: str) -> JobRecord:
        return await self.wait(job_id, 60.0)

    async def wait(self, job_id: str, timeout_s: float) -> JobRecord:
        record = await self.get(job_id)
        if record.status != "queued":
            return record
        if self.hold is not None:
            try:
                await asyncio.wait_for(self.hold.wait(), timeout_s)
            except TimeoutError:
                return self.records[job_id]
        return self.finish(job_id)

    def finish(self, job_id: str, **changes: Any) -> JobRecord:
        record = self.records[job_id]
        changes = changes or {"status": "completed", "result": self._result(job_id)}
        ended = replace(
            record,
            started_at_s=CREATED_AT_S,
            finished_at_s=CREATED_AT_S + 1,
            queue_position=None,
            wait_reason=None,
            **changes,
        )
        self.records[job_id] = ended
        return ended

    def _result(self, job_id: str):
        operation, run_id = self.operations[job_id], self.records[job_id].run_id
        match operation:
            case TrainingPass():
                logprobs = [np.full(d.num_tokens, -0.5, np.float32) for d in operation.data]
                return PassResult(0.5, operation.num_tokens, logprobs, {"loss:sum": 1.0})
            case OptimStep():
                return StepResult(1, 2.0, operation.adam.learning_rate)
            case SaveCheckpoint():
                self.service.checkpoints.add(run_id, operation.name)
                return CheckpointSaved(run_id, operation.name, f"/c/{operation.name}", 10, 1)
            case LoadCheckpoint():
                return CheckpointLoaded(run_id, operation.name, 1, operation.with_optimizer)
            case Sample():
                sampled = (self.sampled * operation.num_samples)[: operation.num_samples]
                return SampleResult(sampled, 3, len(operation.prompt_tokens))
            case Evaluate():
                n = len(operation.items)
                return EvaluationResult([1.0] * n, [-1.0] * n, [2] * n)
        raise AssertionError(operation)

    async def get(self, job_id: str) -> JobRecord:
        if job_id not in self.records:
            raise NotFoundError(f"no job {job_id}", code="job_not_found", field="job_id")
        return self.records[job_id]

    async def list(self, *, run_id, status, limit, offset):
        found = [
            job
            for job in self.records.values()
            if run_id in (None, job.run_id) and status in (None, job.status)
        ][::-1]
        return found[offset : offset + limit], len(found)

    async def log(self, run_id: str, *, after_seq: int, limit: int):
        await self.service.runs.get(run_id)
        found = [job for job in self.records.values() if job.run_id == run_id]
        return [job for job in found if job.seq is not None and job.seq > after_seq][:limit]

    async def cancel(self, job_id: str) -> JobRecord:
        record = await self.get(job_id)
        if record.status == "queued":
            return self.finish(job_id, status="cancelled")
        return record


class FakeCheckpoints:
    def __init__(self, service: FakeService) -> None:
        self.service = service
        self.all: dict[tuple[str, str], CheckpointRecord] = {}

    def add(self, run_id: str, name: str) -> None:
        run = self.service.runs.all[run_id]
        self.all[run_id, name] = CheckpointRecord(
            run_id=run_id,
            name=name,
            base_model=run.base_model,
            lora=run.lora,
            created_at_s=time.time(),
            size_bytes=10,
            is_sampler=False,
            step=1,
            folder=f"/c/{name}",
        )

    async def list(self, *, run_id: str | None) -> list[CheckpointRecord]:
        return [c for c in self.all.values() if run_id in (None, c.run_id)]

    async def contents(self, run_id: str, name: str):
        await self.get(run_id, name)
        return {"eztinker.json": Path(__file__)}

    async def get(self, run_id: str, name: str) -> CheckpointRecord:
        if (run_id, name) not in self.all:
            raise NotFoundError(f"no checkpoint {name}", code="checkpoint_not_found", field="name")
        return self.all[run_id, name]

    async def keep(
        self, run_id: str, name: str, *, is_pinned: bool | None, score: float | None
    ) -> CheckpointRecord:
        return replace(await self.get(run_id, name), is_pinned=bool(is_pinned), score=score)

    async def prune(self, *, is_dry: bool, **_rules: object) -> list[Doomed]:
        oldest = next(iter(self.all))
        found = self.all[oldest] if is_dry else self.all.pop(oldest)
        return [Doomed(found, "keep_last 1")]

    async def delete(self, run_id: str, name: str) -> None:
        await self.get(run_id, name)
        del self.all[run_id, name]
