"""A worker without tensors: a run's state is one number, and every operation on it is arithmetic.

It obeys the same messages as the real one, so that the engine loop, recovery and the log can be
tested in milliseconds, deaths included.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eztinker.engine.executors.base import WorkerDied
from eztinker.engine.memory_model import weights_bytes
from eztinker.engine.model_shape import ModelShape
from eztinker.types import codec, commands, events
from eztinker.types.commands import WorkerSettings
from eztinker.types.error_info import ErrorInfo
from eztinker.types.operations import (
    EvaluationResult,
    PassResult,
    RunCreated,
    SampleResult,
    StepResult,
)
from eztinker.types.sampling import SampledSequence


class FakeExecutor:
    """One life of the fake worker.

    Class attributes are shared by all lives of a test (see the ``fake`` fixture): ``before`` is called
    with each command and may raise ``WorkerDied`` to kill this life, or an ``ErrorInfo`` to fail it.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._events: asyncio.Queue[events.Event | None] = asyncio.Queue()
        self._runs: dict[str, dict[str, float]] = {}
        self._epoch = 0

    async def start(self, settings: WorkerSettings) -> None:
        self._epoch = settings.epoch
        self._world.lives.append(self)
        ready = events.WorkerReady(self._epoch, 1, "cpu", 1, memory_bytes=self._world.memory_bytes)
        self._emit(ready)

    async def send(self, command: commands.Command) -> None:
        cls = type(command)
        command = codec.decode(codec.encode(command), cls)  # what cannot be sent must not work here
        self._world.commands.append(command)
        try:
            failure = await self._world.before(command)
        except WorkerDied:
            await self.kill()
            return
        if failure is not None:
            self._emit(events.JobFailed(self._epoch, command.job_id, failure))  # type: ignore[union-attr]
            return
        self._execute(command)

    async def receive(self) -> events.Event:
        event = await self._events.get()
        if event is None:
            raise WorkerDied("killed")
        return event

    async def kill(self) -> None:
        self._events.put_nowait(None)

    def _emit(self, event: events.Event) -> None:
        self._events.put_nowait(codec.decode(codec.encode(event), type(event)))

    def _done(self, job_id: str, result: object, **kwargs: object) -> None:
        done = events.JobDone(self._epoch, job_id, codec.encode(result), **kwargs)  # type: ignore[arg-type]
        self._emit(done)

    def _tell(self, job_id: str, place: int, token: int) -> None:
        """One token of the only sample of a streamed job."""
        told = events.TokensDrawn(
            self._epoch, [job_id], [0], [place], [[token]], [[-0.5]], [[]], [[]]
        )
        self._emit(told)

    def _execute(self, command: commands.Command) -> None:
        match command:
            case commands.LoadBaseModel():
                self._world.num_loads += 1
                self._emit(
                    events.BaseModelLoaded(
                        self._epoch,
                        command.base_model,
                        "Fake",
                        1,
                        64,
                        100,
                        "float32",
                        "cpu",
                        self._world.size_of(command),
                        command.quantization,
                    )
                )
            case commands.UnloadBaseModel():
                self._world.num_unloads += 1
            case commands.OpenRun():
                state = {"weight": float(command.seed), "grad": 0.0, "step": 0.0}
                if command.snapshot_folder:
                    state = json.loads((Path(command.snapshot_folder) / "state.json").read_text())
                self._runs[command.run_id] = state
                self._done(command.job_id, RunCreated(command.run_id, "cpu", 1, ["fake"]))
            case commands.CloseRun():
                self._runs.pop(command.run_id, None)
            case commands.RunPass():
                state = self._runs[command.run_id]
                total = sum(float(datum.tokens_T.sum()) for datum in command.operation.data)
                if not command.operation.forward_only:
                    state["grad"] += total
                loss = state["weight"] * 3 + total
                self._done(
                    command.job_id,
                    PassResult(loss, 1, [np.zeros(1, np.float32)]),
                    executed_plan=command.plan,
                    compute_s=self._world.compute_s,
                )
            case commands.RunOptimStep():
                state = self._runs[command.run_id]
                norm, state["grad"] = state["grad"], 0.0
                state["weight"] += norm * command.operation.adam.learning_rate
                state["step"] += 1
                result = StepResult(int(state["step"]), norm, command.operation.adam.learning_rate)
                self._done(command.job_id, result, compute_s=self._world.compute_s)
            case commands.WriteState():
                data = json.dumps({**self._runs[command.run_id], "grad": 0.0}).encode()
                (Path(command.folder) / "state.json").write_bytes(data)
                self._emit(
                    events.StateWritten(
                        self._epoch,
                        command.job_id,
                        command.run_id,
                        int(self._runs[command.run_id]["step"]),
                        {"state.json": hashlib.sha256(data).hexdigest()},
                        len(data),
                    )
                )
            case commands.ReadState():
                state = json.loads((Path(command.folder) / "state.json").read_text())
                self._runs[command.run_id] = state
                self._emit(
                    events.StateRead(
                        self._epoch, command.job_id, command.run_id, int(state["step"])
                    )
                )
            case commands.RunSample():
                run_id = command.operation.weights.run_id
                step = int(self._runs[run_id]["step"]) if run_id else 0
                drawn = self._world.drawn
                if command.streamed:
                    for place, token in enumerate(drawn[: self._world.num_drawn_in_life.pop(0)]):
                        self._tell(command.job_id, place, token)
                    if place < len(drawn) - 1:
                        self._events.put_nowait(None)  # the worker dies
                        return
                sequence = SampledSequence(drawn, [-0.5] * len(drawn), "length")
                result = SampleResult([sequence] * command.operation.num_samples, step, 1)
                self._done(command.job_id, result)
            case commands.RunEvaluate():
                self._done(command.job_id, EvaluationResult([1.0], [-1.0], [1]))
            case commands.CancelJob():
                error = ErrorInfo("cancelled", "cancelled", "user")
                self._emit(events.JobFailed(self._epoch, command.job_id, error))
            case commands.Shutdown():
                self._events.put_nowait(None)


class World:
    """What all lives of one test share.

    Attributes:
        before: awaited with each command; may raise ``WorkerDied`` or return an ``ErrorInfo``.
        compute_s: what passes claim to have cost.
        drawn: tokens that sampling gives.
        num_loads, num_unloads: of base models.
        memory_bytes: what the worker says the machine has; 0 is unknown.
        shapes: of base models by the name of their folder; others take no memory to speak of.
        num_drawn_in_life: of a streamed job, life by life; fewer than all of them is a death.
    """

    def __init__(self) -> None:
        self.lives: list[FakeExecutor] = []
        self.commands: list[commands.Command] = []
        self.num_loads = self.num_unloads = 0
        self.memory_bytes = 0
        self.shapes: dict[str, ModelShape] = {}
        self.compute_s = 0.0
        self.drawn = [1]
        self.num_drawn_in_life: list[int] = []
        self.before: Callable[..., object] = self._nothing  # type: ignore[assignment]

    def make_executor(self) -> FakeExecutor:
        return FakeExecutor(self)

    def shape_of(self, folder: Path) -> ModelShape:
        return self.shapes.get(folder.name, ModelShape(1, 1, 1, 1, 1, 4, 1, 1, 1, 1, 1, 1, 1))

    def size_of(self, command: commands.LoadBaseModel) -> int:
        return weights_bytes(self.shape_of(Path(command.folder)), command.quantization, "float32")

    def sent(self, cls: type) -> list[commands.Command]:
        return [command for command in self.commands if isinstance(command, cls)]

    async def _nothing(self, _command: commands.Command) -> ErrorInfo | None:
        return None
