"""The engine worker: takes commands, runs training and sampling by turns, reports events.

``step`` does one unit of work: a micro-batch, an optimizer step, a prefill, or a few decode steps; when
both kinds wait they alternate, so neither holds up the other. Commands on runs execute in the order they
came; sampling pins its weights when it starts. Knows no process and no socket (``process.py``,
``executors/inline.py``), no log and no schedule.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

from eztinker.engine.worker import jobs
from eztinker.engine.worker.base_model import BaseModel, load_base_model
from eztinker.engine.worker.batch import SampleRequest
from eztinker.engine.worker.devices import choose_device, set_num_threads
from eztinker.engine.worker.failures import Heartbeat, as_eztinker_error, error_info
from eztinker.engine.worker.residents import Residents
from eztinker.engine.worker.sampler import Sampler, sample_result
from eztinker.errors import (
    CancelledError,
    InvalidRequestError,
)
from eztinker.ops.losses import BUILT_IN, list_loss_functions
from eztinker.types.codec import encode
from eztinker.types.messages import (
    BaseModelFailed,
    BaseModelLoaded,
    CancelJob,
    CloseRun,
    Command,
    Event,
    JobDone,
    JobFailed,
    LoadBaseModel,
    OpenRun,
    Progress,
    ReadState,
    RunEvaluate,
    RunOptimStep,
    RunPass,
    RunSample,
    Shutdown,
    WorkerReady,
    WorkerSettings,
    WriteState,
)  # fmt: skip

_PROGRESS_S = 0.5

_HANDLERS: dict[type, Callable[..., jobs.Job]] = {
    OpenRun: jobs.open_run,
    CloseRun: jobs.close_run,
    RunPass: jobs.run_training_pass,
    RunOptimStep: jobs.run_optim_step,
    WriteState: jobs.run_write_state,
    ReadState: jobs.run_read_state,
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


class Worker:
    """Executes commands on the models and runs it holds.

    Args:
        settings: told at birth; plugins are imported here.
        emit: takes each event; called from the thread that steps and from threads that write files, one
            at a time.
    """

    def __init__(self, settings: WorkerSettings, emit: Callable[[Event], None]) -> None:
        self._epoch = settings.epoch
        self._emit_event, self._emit_lock = emit, threading.Lock()
        self._last_event_s = time.monotonic()
        self._inbox: deque[Command] = deque()
        self._has_mail = threading.Condition()
        self._ordered: deque[Any] = deque()
        self._current: _Task | None = None
        self._side_tasks: deque[_Task] = deque()
        self._unpinned: list[tuple[RunSample, int]] = []
        self._num_setups_queued = self._num_setups_done = 0
        self._training_is_next = True
        self._stopped = False
        self._writers: list[threading.Thread] = []
        for module in settings.plugins:
            importlib.import_module(module)
        self._num_threads = set_num_threads(settings.num_threads)
        self._residents = Residents(settings, choose_device(settings.device))
        self._heartbeat = Heartbeat(self._beat)

    # Life ------------------------------------------------------------------------------------------

    def submit(self, command: Command) -> None:
        """Hand a command over; from any thread."""
        with self._has_mail:
            self._inbox.append(command)
            self._has_mail.notify()

    def run(self) -> None:
        """Work until ``Shutdown``."""
        self.announce()
        self._heartbeat.start()
        while not self._stopped:
            if not self.step() and not self._stopped:
                with self._has_mail:
                    self._has_mail.wait_for(lambda: bool(self._inbox))
        self._heartbeat.stop()
        for writer in self._writers:
            writer.join()

    def announce(self) -> None:
        """Emit ``WorkerReady``."""
        versions = {
            name: str(importlib.import_module(name).__version__)
            for name in ("torch", "transformers")
        }
        self._emit(
            WorkerReady(
                epoch=self._epoch,
                pid=os.getpid(),
                device=str(self._residents.device),
                num_threads=self._num_threads,
                loss_functions=sorted(set(list_loss_functions()) - set(BUILT_IN)),
                versions=versions,
            )
        )

    def step(self) -> bool:
        """Take what has arrived and do one unit of work; False when there was nothing to do."""
        self._receive()
        if self._stopped:
            return False
        self._pin_samples()
        with self._heartbeat:
            has_worked = self._unit()
        if has_worked:
            self._report_progress()
        return has_worked

    def _unit(self) -> bool:
        kinds = [self._training_unit, self._sampling_unit]
        if not self._training_is_next:
            kinds.reverse()
        for unit in kinds:
            if unit():
                self._training_is_next = unit == self._sampling_unit
                return True
        return False

    def _emit(self, event: Event) -> None:
        with self._emit_lock:
            self._last_event_s = time.monotonic()
            self._emit_event(event)

    def _report_progress(self) -> None:
        if time.monotonic() - self._last_event_s < _PROGRESS_S:
            return
        doing = "sampling" if self._current is None else type(self._current.command).__name__
        num_rows = sum(sampler.num_rows for sampler in set(self._residents.samplers.values()))
        self._emit(Progress(self._epoch, doing, num_rows))

    def _beat(self) -> None:
        """Like ``_report_progress``, from the heartbeat's thread: what changes meanwhile stays untouched."""
        if time.monotonic() - self._last_event_s >= _PROGRESS_S:
            self._emit(Progress(self._epoch, "a long unit of work"))

    # Arriving commands -----------------------------------------------------------------------------

    def _receive(self) -> None:
        while self._inbox:
            command = self._inbox.popleft()
            if isinstance(command, Shutdown):
                self._stopped = True
            elif isinstance(command, CancelJob):
                self._cancel(command.job_id)
            elif isinstance(command, RunSample):
                self._unpinned.append((command, self._num_setups_queued))
            else:
                self._num_setups_queued += _is_setup(command)
                self._ordered.append(command)

    def _pin_samples(self) -> None:
        """Start sampling requests whose model and run were made ready by what came before them."""
        while self._unpinned and self._unpinned[0][1] <= self._num_setups_done:
            command, _ = self._unpinned.pop(0)
            try:
                weights, step = self._residents.weights_for(command)
                sampler = self._residents.samplers[command.operation.weights.base_model]
                sampler.submit(command.job_id, command.operation, weights, step)
            except Exception as error:
                self._fail(command.job_id, error)

    def _cancel(self, job_id: str) -> None:
        found = [
            self._cancel_queued(job_id),
            self._cancel_task(job_id),
            self._cancel_samples(job_id),
        ]
        if any(found):
            self._fail(job_id, CancelledError("The job was cancelled; it had no effect."))

    def _cancel_queued(self, job_id: str) -> bool:
        queued = [command for command in self._ordered if _job_id(command) == job_id]
        for command in queued:
            self._ordered.remove(command)
            self._num_setups_done += _is_setup(command)
        unpinned = [entry for entry in self._unpinned if entry[0].job_id == job_id]
        for entry in unpinned:
            self._unpinned.remove(entry)
        return bool(queued or unpinned)

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

    def _cancel_samples(self, job_id: str) -> bool:
        found = False
        for sampler in self._residents.samplers.values():
            for request in sampler.requests():
                if request.job_id == job_id:
                    sampler.cancel(request)
                    found = True
        return found

    # Training --------------------------------------------------------------------------------------

    def _training_unit(self) -> bool:
        task = self._next_task()
        if task is None:
            return False
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
        return True

    def _next_task(self) -> _Task | None:
        """Evaluations hold immutable weights, so they take turns with the ordered commands."""
        for _ in range(len(self._side_tasks)):
            task = self._side_tasks[0]
            self._side_tasks.rotate(-1)
            if task.is_runnable:
                return task
        if self._current is None and self._ordered:
            command = self._ordered.popleft()
            self._current = _Task(command, self._job_of(command))
        return self._current

    def _job_of(self, command: Any) -> jobs.Job:
        if isinstance(command, LoadBaseModel):
            return self._load_base_model(command)
        if isinstance(command, WriteState) and command.background:
            return self._write_in_background(command)
        return _HANDLERS[type(command)](self._residents, command)

    def _end(self, task: _Task, event: Event | None) -> None:
        self._num_setups_done += _is_setup(task.command)
        if task is self._current:
            self._current = None
        if task in self._side_tasks:
            self._side_tasks.remove(task)
        if isinstance(event, JobDone):
            event = replace(event, compute_s=task.compute_s)
        if event is not None:
            self._emit(event)

    def _failure_of(self, command: Any, error: Exception) -> Event:
        if isinstance(command, LoadBaseModel):
            info = error_info(error, command.base_model)
            return BaseModelFailed(self._epoch, command.base_model, info)
        return JobFailed(self._epoch, _job_id(command), error_info(error, _job_id(command)))

    def _load_base_model(self, command: LoadBaseModel) -> jobs.Job:
        base = self._resident_base_model(command)
        decoder = base.decoder
        return BaseModelLoaded(
            epoch=self._epoch,
            base_model=base.name,
            architecture=base.architecture,
            num_parameters=decoder.num_parameters,
            context_length=decoder.context_length,
            vocab_size=decoder.vocab_size,
            dtype=str(decoder.dtype).removeprefix("torch."),
            device=str(decoder.device),
            size_bytes=decoder.size_bytes,
            quantization=base.quantization,
        )
        yield

    def _resident_base_model(self, command: LoadBaseModel) -> BaseModel:
        known = self._residents.base_models.get(command.base_model)
        if known is not None:
            if (known.folder, known.quantization) != (Path(command.folder), command.quantization):
                raise InvalidRequestError(
                    f"Base model {command.base_model!r} is already loaded from {known.folder} with "
                    f"quantization {known.quantization!r}; give the other one another name.",
                    field="base_model",
                )
            return known
        twin = self._residents.base_model_in(Path(command.folder), command.quantization)
        if twin is not None:
            return self._residents.share_base_model(command.base_model, twin)
        base = load_base_model(
            command.base_model,
            Path(command.folder),
            quantization=command.quantization,
            device=self._residents.device,
            dtype=self._residents.settings.dtype,
        )
        self._residents.add_base_model(base)
        return base

    def _write_in_background(self, command: WriteState) -> jobs.Job:
        """States are immutable: the thread writes the one of this moment while work goes on."""
        frozen = Residents(self._residents.settings, self._residents.device)
        frozen.runs = dict(self._residents.runs)

        def write() -> None:
            try:
                next(jobs.run_write_state(frozen, command))
            except StopIteration as stop:
                self._emit(stop.value)
            except Exception as error:
                self._fail(command.job_id, error)

        self._writers = [writer for writer in self._writers if writer.is_alive()]
        writer = threading.Thread(target=write, name=f"write {command.run_id}", daemon=True)
        self._writers.append(writer)
        writer.start()
        return None
        yield

    # Sampling --------------------------------------------------------------------------------------

    def _sampling_unit(self) -> bool:
        busy = [sampler for sampler in self._residents.samplers.values() if sampler.has_work]
        if not busy:
            return False
        # The one that waited longest: samplers move to the end of the table after their turn.
        sampler = busy[0]
        self._residents.put_last(sampler)
        try:
            finished = sampler.step()
        except Exception as error:
            self._fail_samples(sampler, error)
            return True
        for request in finished:
            if not self._is_internal(request):
                result = encode(sample_result(request))
                self._emit(JobDone(self._epoch, request.job_id, result, None, request.compute_s))
        return True

    def _fail_samples(self, sampler: Sampler, error: Exception) -> None:
        info = error_info(error, "sampling")
        for request in sampler.in_step:
            sampler.cancel(request)
            request.error = as_eztinker_error(error)
            if not self._is_internal(request):
                self._emit(JobFailed(self._epoch, request.job_id, info))

    def _is_internal(self, request: SampleRequest) -> bool:
        return any(request in task.waits_for for task in self._side_tasks)

    # Failures --------------------------------------------------------------------------------------

    def _fail(self, job_id: str, error: Exception) -> None:
        self._emit(JobFailed(self._epoch, job_id, error_info(error, job_id)))


def _job_id(command: Any) -> str:
    return getattr(command, "job_id", "")


def _is_setup(command: Any) -> bool:
    """Whether sampling requests that come later may need what this command makes."""
    return isinstance(command, (LoadBaseModel, OpenRun, ReadState))
