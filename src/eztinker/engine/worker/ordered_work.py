"""Commands that execute in the order they came: models, runs, passes, optimizer steps, states, evaluations.

``unit`` advances one of them by one unit of work. Passes of several runs are in progress at one time
(``pass_group.py``); passes and optimizer steps may overtake those of other runs, never of their own, and
nothing overtakes any other command. An evaluation has pinned its weights once it has begun, so it steps
aside and takes turns with the rest. Knows no sampler beyond the requests an evaluation waits for, and no
inbox; driven by ``worker.py``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Any

from eztinker.engine.worker import jobs
from eztinker.engine.worker.background_writes import BackgroundWrites
from eztinker.engine.worker.failures import error_info
from eztinker.engine.worker.outbox import Outbox
from eztinker.engine.worker.pass_group import PassGroup
from eztinker.engine.worker.residents import Residents
from eztinker.engine.worker.rows import SampleRequest
from eztinker.types.commands import (
    CloseRun,
    ImportAdapter,
    LoadBaseModel,
    OpenRun,
    ReadState,
    RunEvaluate,
    RunOptimStep,
    RunPass,
    UnloadBaseModel,
    WriteState,
)
from eztinker.types.events import BaseModelFailed, Event, JobDone, JobFailed

_HANDLERS: dict[type, Callable[..., jobs.Job]] = {
    LoadBaseModel: jobs.run_load_base_model,
    UnloadBaseModel: jobs.unload_base_model,
    OpenRun: jobs.open_run,
    CloseRun: jobs.close_run,
    RunOptimStep: jobs.run_optim_step,
    WriteState: jobs.run_write_state,
    ReadState: jobs.run_read_state,
    ImportAdapter: jobs.run_import_adapter,
    RunEvaluate: jobs.run_evaluate,
}


@dataclass(slots=True, eq=False)
class _Task:
    """A command being executed.

    Attributes:
        waits_for: sampling requests without which it cannot go on.
    """

    command: Any
    job: jobs.Job
    compute_s: float = 0.0
    waits_for: list[SampleRequest] = dataclass_field(default_factory=list)

    @property
    def is_runnable(self) -> bool:
        return all(request.is_finished or request.error for request in self.waits_for)


class OrderedWork:
    """Queue and execution of ordered commands.

    Args:
        residents: what they work on.
        outbox: takes their answers.
        writes: takes states to be written in the background.

    Attributes:
        num_setups_queued, num_setups_done: commands so far that later samples may depend on.
    """

    def __init__(self, residents: Residents, outbox: Outbox, writes: BackgroundWrites) -> None:
        self._residents = residents
        self._outbox = outbox
        self._writes = writes
        self._queue: deque[Any] = deque()
        self._passes = PassGroup(residents)
        self._current: _Task | None = None
        self._side_tasks: deque[_Task] = deque()
        self._was_evaluation = False
        self.num_setups_queued = self.num_setups_done = 0

    def add(self, command: Any) -> None:
        """Queue a command."""
        self.num_setups_queued += _is_setup(command)
        self._queue.append(command)

    def is_internal(self, request: SampleRequest) -> bool:
        """Whether a sampling request belongs to an evaluation, which answers for it."""
        return any(request in task.waits_for for task in self._side_tasks)

    def cancel(self, job_id: str) -> bool:
        """Drop a job, without effect and without answer; False if it is not here."""
        return (
            self._cancel_queued(job_id) or self._passes.cancel(job_id) or self._cancel_task(job_id)
        )

    def unit(self) -> bool:
        """Do one unit of work, of an evaluation or of the rest by turns; False when there is none."""
        kinds = [self._unit_of_evaluation, self._unit_in_order]
        if self._was_evaluation:
            kinds.reverse()
        for unit in kinds:
            if unit():
                self._was_evaluation = unit == self._unit_of_evaluation
                return True
        return False

    def _unit_of_evaluation(self) -> bool:
        """They hold immutable weights and wait for nobody but the sampler."""
        for _ in range(len(self._side_tasks)):
            task = self._side_tasks[0]
            self._side_tasks.rotate(-1)
            if task.is_runnable:
                self._advance(task)
                return True
        return False

    def _unit_in_order(self) -> bool:
        command = self._next_command() if self._current is None else None
        if command is not None:
            self._current = _Task(command, self._job_of(command))
        if self._current is not None:
            self._advance(self._current)
            return True
        if not len(self._passes):
            return False
        for event in self._passes.unit():
            self._outbox.send(event)
        return True

    def _advance(self, task: _Task) -> None:
        start_s = time.perf_counter()
        try:
            waits_for = next(task.job)
        except StopIteration as stop:
            task.compute_s += time.perf_counter() - start_s
            self._end(task, stop.value)
        except Exception as error:
            self._end(task, self._failure_of(task.command, error))
        else:
            task.compute_s += time.perf_counter() - start_s
            task.waits_for = waits_for or []
            if isinstance(task.command, RunEvaluate) and task is self._current:
                # It has pinned its weights; what comes after it need not wait for its answers.
                self._current = None
                self._side_tasks.append(task)

    def _cancel_queued(self, job_id: str) -> bool:
        queued = [command for command in self._queue if _job_id(command) == job_id]
        for command in queued:
            self._queue.remove(command)
            self.num_setups_done += _is_setup(command)
        return bool(queued)

    def _cancel_task(self, job_id: str) -> bool:
        tasks = [self._current, *self._side_tasks]
        task = next((t for t in tasks if t is not None and _job_id(t.command) == job_id), None)
        if task is None:
            return False
        task.job.close()
        if task is self._current:
            self._current = None
        else:
            self._side_tasks.remove(task)
        return True

    def _next_command(self) -> Any | None:
        """Begin the passes that may begin; the command to execute now, if there is one."""
        busy: set[str] = set()
        for command in list(self._queue):
            run_id = getattr(command, "run_id", "")
            may_start = run_id not in busy and not self._passes.has_run(run_id)
            if isinstance(command, RunPass):
                may_start = may_start and self._passes.admits(command)
            elif not isinstance(command, RunOptimStep) and command is not self._queue[0]:
                return None
            if not may_start:
                busy.add(run_id)
                if not isinstance(command, (RunPass, RunOptimStep)):
                    return None
                continue
            self._queue.remove(command)
            if not isinstance(command, RunPass):
                return command
            failure = self._passes.add(command)
            if failure is not None:
                self._outbox.send(failure)
        return None

    def _job_of(self, command: Any) -> jobs.Job:
        if isinstance(command, WriteState) and command.background:
            return self._writes.start(command)
        return _HANDLERS[type(command)](self._residents, command)

    def _end(self, task: _Task, event: Event | None) -> None:
        self.num_setups_done += _is_setup(task.command)
        if task is self._current:
            self._current = None
        if task in self._side_tasks:
            self._side_tasks.remove(task)
        if isinstance(event, JobDone):
            event = replace(event, compute_s=task.compute_s)
        if event is not None:
            self._outbox.send(event)

    def _failure_of(self, command: Any, error: Exception) -> Event:
        epoch = self._outbox.epoch
        if isinstance(command, LoadBaseModel):
            return BaseModelFailed(
                epoch,
                command.base_model,
                error_info(error, command.base_model),
                command.quantization,
            )
        return JobFailed(epoch, _job_id(command), error_info(error, _job_id(command)))


def _job_id(command: Any) -> str:
    return getattr(command, "job_id", "")


def _is_setup(command: Any) -> bool:
    """Whether sampling requests that come later may need what this command makes."""
    return isinstance(command, (LoadBaseModel, OpenRun, ReadState))
