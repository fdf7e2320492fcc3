"""A worker in this thread, driven step by step: what goes in as commands comes out as decoded results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from eztinker.engine.worker.worker import Worker
from eztinker.types.codec import decode
from eztinker.types.commands import (
    LoadBaseModel,
    OpenRun,
    RunOptimStep,
    RunPass,
    RunSample,
    WorkerSettings,
)
from eztinker.types.events import Event, JobDone, JobFailed, SignOfLife
from eztinker.types.operations import (
    OptimStep,
    PassResult,
    RunCreated,
    Sample,
    SampleResult,
    StepResult,
    TrainingPass,
)
from eztinker.types.plans import PassPlan
from eztinker.types.sampling import SamplingParams, WeightsRef
from eztinker.types.training import AdamParams, Datum, LoRAConfig, LossSpec

DEVICE = os.environ.get("TEST_DEVICE", "cpu")
"""``benchmarks/gpu.sh`` runs the same tests on ``cuda``."""


class Harness:
    """A worker with one base model called ``m``."""

    def __init__(self, folder: Path, num_copies: int = 3, **settings) -> None:
        self.events: list[Event] = []
        settings = {"device": DEVICE, "dtype": "float32", "num_threads": 1} | settings
        self.worker = Worker(WorkerSettings(epoch=3, **settings), self.events.append)
        self.num_jobs = 0
        self.do(LoadBaseModel("m", str(folder), num_copies=num_copies))

    def do(self, *commands) -> list[Event]:
        """Execute to the end; the new events."""
        before = len(self.events)
        for command in commands:
            self.worker.submit(command)
        while self.worker.step():
            pass
        return self.events[before:]

    def answer(self, command, cls=None):
        """The decoded result of a job; an ``AssertionError`` with the failure otherwise."""
        event = self.do(command)[-1]
        assert not isinstance(event, JobFailed), event
        return decode(event.result, cls) if isinstance(event, JobDone) else event

    def answers(self, *commands, cls) -> dict[str, Any]:
        """The decoded results of jobs that run together, by job id."""
        events = [event for event in self.do(*commands) if not isinstance(event, SignOfLife)]
        assert all(isinstance(event, JobDone) for event in events), events
        return {event.job_id: decode(event.result, cls) for event in events}

    def failure(self, command) -> JobFailed:
        """The failure of a job that must fail."""
        event = self.do(command)[-1]
        assert isinstance(event, JobFailed), event
        return event

    def job_id(self) -> str:
        self.num_jobs += 1
        return f"job_{self.num_jobs:08x}"

    def open_run(self, run_id="r", seed=7, snapshot_folder=None, **lora) -> RunCreated:
        config = LoRAConfig(**{"r": 4, "lora_dropout": 0.0, **lora})
        command = OpenRun(self.job_id(), run_id, "m", config, seed, snapshot_folder)
        return self.answer(command, RunCreated)

    def pass_command(self, data, run_id="r", plan=None, forward_only=False, **loss) -> RunPass:
        operation = TrainingPass(data, LossSpec(**loss), forward_only)
        plan = plan or [list(range(len(data)))]
        return RunPass(self.job_id(), run_id, operation, PassPlan(plan))

    def forward_backward(self, data, **kwargs) -> PassResult:
        return self.answer(self.pass_command(data, **kwargs), PassResult)

    def forward(self, data, **kwargs) -> PassResult:
        return self.forward_backward(data, forward_only=True, **kwargs)

    def optim_step(self, run_id="r", **adam) -> StepResult:
        operation = OptimStep(AdamParams(**adam))
        return self.answer(RunOptimStep(self.job_id(), run_id, operation), StepResult)

    def sample_command(
        self,
        prompt,
        run_id: str | None = "r",
        base_model="m",
        num_samples=1,
        folder=None,
        scoring=None,
        **params,
    ) -> RunSample:
        operation = Sample(
            WeightsRef(base_model, run_id),
            np.asarray(prompt, np.int32),
            SamplingParams(**params),
            num_samples,
            **(scoring or {}),
        )
        return RunSample(self.job_id(), operation, folder)

    def sample(self, prompt, **kwargs) -> SampleResult:
        return self.answer(self.sample_command(prompt, **kwargs), SampleResult)

    def run_state(self, run_id="r"):
        """The resident state, to compare bits."""
        return self.worker._residents.runs[run_id]


def tokens(seed: int, length: int, vocab_size: int = 300) -> np.ndarray:
    """Random ids that are no special tokens."""
    return np.random.default_rng(seed).integers(2, vocab_size, length).astype(np.int32)


def datum(seed: int, length: int, num_prompt: int = 0, **inputs) -> Datum:
    """A random sequence that predicts itself; the prompt's targets have weight 0."""
    ids = tokens(seed, length + 1)
    weights = np.ones(length, np.float32)
    weights[:num_prompt] = 0
    targets = {"target_tokens": ids[1:].astype(np.int64), "weights": weights}
    return Datum(ids[:-1], targets | inputs)
