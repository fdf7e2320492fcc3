"""An engine over a real database and the fake worker, as a test needs it."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

import numpy as np

from eztinker.config import ServerConfig
from eztinker.engine.active_job import ActiveJob
from eztinker.engine.run_manager import RunManager
from eztinker.store import log, runs
from eztinker.store.database import Database
from eztinker.types.operations import CreateRun, Operation, OptimStep, Sample, TrainingPass
from eztinker.types.records import BaseModelRecord, JobRecord, RunRecord
from eztinker.types.sampling import SamplingParams, WeightsRef
from eztinker.types.training import AdamParams, Datum, LoRAConfig, LossSpec, Quantization
from tests.unit.engine.fake_worker import World

numbers = itertools.count()


class Engine:
    """One life of a server without HTTP; ``stop`` and open another on the same folder to restart."""

    def __init__(self, state_dir: Path, world: World, **settings: object) -> None:
        self.world = world
        self.config = ServerConfig.model_validate({"state_dir": state_dir, **settings})
        self.database = Database(state_dir)
        self.manager = RunManager(
            self.config, self.database, world.make_executor, self._resolve, world.shape_of
        )

    async def start(self) -> Engine:
        self.database.open()
        await self.manager.start()
        return self

    async def stop(self) -> None:
        await self.manager.stop()
        self.database.close()

    async def crash(self) -> None:
        """Leave everything as it lies on disk; nothing is finished."""
        loop = self.manager._loop
        for task in (loop._main, *loop._executions, *self.manager._supervisor._tasks):
            assert task is not None
            task.cancel()
        await asyncio.sleep(0)
        self.database.close()

    async def create(
        self,
        run_id: str = "run_1",
        seed: int = 5,
        *,
        base: str = "nano",
        quantization: Quantization = "none",
    ) -> ActiveJob:
        lora = LoRAConfig(r=1)
        run = RunRecord(run_id, base, lora, LossSpec(), seed, quantization, "creating", time.time())
        await self.database.write(lambda connection: runs.insert_run(connection, run))
        return await self.submit(CreateRun(base, lora, seed, quantization), run_id)

    async def submit(
        self, operation: Operation, run_id: str | None = "run_1", *, seq: int | None = None
    ) -> ActiveJob:
        ordered = not isinstance(operation, Sample)
        job_id = f"job_{next(numbers):08d}"
        request = log.Request(job_id, run_id, operation, ordered, time.time(), seq=seq)
        return self.manager.submit(
            await self.database.write(lambda conn: log.append(conn, request, scope=""))
        )

    async def do(
        self, operation: Operation, run_id: str = "run_1", *, seq: int | None = None
    ) -> JobRecord:
        return await ended(await self.submit(operation, run_id, seq=seq))

    @staticmethod
    async def _resolve(name: str) -> BaseModelRecord:
        return BaseModelRecord(name, f"/nowhere/{name}", "Fake", 64, 100)


async def ended(active: ActiveJob) -> JobRecord:
    async with asyncio.timeout(5):
        await active.ended.wait()
    return active.record


def a_pass(*tokens: int) -> TrainingPass:
    datum = Datum(np.array(tokens, np.int32), {"target_tokens": np.array(tokens)})
    return TrainingPass([datum], LossSpec())


def a_step(learning_rate: float = 0.5) -> OptimStep:
    return OptimStep(AdamParams(learning_rate))


def a_sample(*prompt: int, num_samples: int = 1) -> Sample:
    tokens = np.array(prompt, np.int32)
    return Sample(WeightsRef("nano", "run_1"), tokens, SamplingParams(), num_samples)
