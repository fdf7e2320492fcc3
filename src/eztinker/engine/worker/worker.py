"""The engine worker: takes commands, runs training and sampling by turns, reports events.

``step`` does one unit of work: a micro-batch, an optimizer step, a prefill, or a few decode steps; when
both kinds wait they get equal time, so neither holds up the other. Ordered commands go to ``ordered_work.py``,
sampling to ``sampling_work.py``. Knows no process and no socket (``process.py``, ``executors/inline.py``),
no log and no schedule.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from importlib import metadata

from eztinker.engine.worker.allocator import IDLE_S, give_back
from eztinker.engine.worker.background_writes import BackgroundWrites
from eztinker.engine.worker.devices import choose_device, set_num_threads, total_memory_bytes
from eztinker.engine.worker.heartbeat import Heartbeat
from eztinker.engine.worker.ordered_work import OrderedWork
from eztinker.engine.worker.outbox import Outbox
from eztinker.engine.worker.residents import Residents
from eztinker.engine.worker.sampling_work import SamplingWork
from eztinker.errors import CancelledError
from eztinker.ops.losses import BUILT_IN, list_loss_functions
from eztinker.types.commands import CancelJob, Command, RunSample, Shutdown, WorkerSettings
from eztinker.types.events import Event, WorkerReady


class Worker:
    """Executes commands on the models and runs it holds.

    Args:
        settings: told at birth; plugins are imported here.
        emit: takes each event; called from the thread that steps and from threads that write files, one
            at a time.
    """

    def __init__(self, settings: WorkerSettings, emit: Callable[[Event], None]) -> None:
        self._inbox: deque[Command] = deque()
        self._has_mail = threading.Condition()
        self._training_lead_s = 0.0
        self._stopped = False
        for module in settings.plugins:
            importlib.import_module(module)
        self._num_threads = set_num_threads(settings.num_threads)
        self._residents = Residents(settings, choose_device(settings.device))
        self._outbox = Outbox(settings.epoch, emit)
        self._writes = BackgroundWrites(self._residents, self._outbox)
        self._ordered = OrderedWork(self._residents, self._outbox, self._writes)
        self._sampling = SamplingWork(self._residents, self._outbox, self._ordered.is_internal)
        self._heartbeat = Heartbeat(self._outbox.show_life)

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
                self._wait()
        self._heartbeat.stop()
        self._writes.join()

    def _wait(self) -> None:
        with self._has_mail:
            if self._has_mail.wait_for(lambda: bool(self._inbox), timeout=IDLE_S):
                return
        give_back()
        with self._has_mail:
            self._has_mail.wait_for(lambda: bool(self._inbox))

    def announce(self) -> None:
        """Emit ``WorkerReady``."""
        versions = {name: metadata.version(name) for name in ("torch", "transformers")}
        self._outbox.send(
            WorkerReady(
                epoch=self._outbox.epoch,
                pid=os.getpid(),
                device=str(self._residents.device),
                num_threads=self._num_threads,
                loss_functions=sorted(set(list_loss_functions()) - set(BUILT_IN)),
                versions=versions,
                memory_bytes=total_memory_bytes(self._residents.device),
            )
        )

    def step(self) -> bool:
        """Take what has arrived and do one unit of work; False when there was nothing to do."""
        self._receive()
        if self._stopped:
            return False
        self._sampling.pin(self._ordered.num_setups_done)
        with self._heartbeat:
            has_worked = self._unit()
        if has_worked:
            self._outbox.show_life()
        return has_worked

    def _unit(self) -> bool:
        """The kind of work that has had less time goes first; one that had nothing to do is owed nothing."""
        kinds = [(self._ordered.unit, 1), (self._sampling.unit, -1)]
        if self._training_lead_s > 0:
            kinds.reverse()
        for unit, sign in kinds:
            start_s = time.perf_counter()
            if unit():
                self._training_lead_s += sign * (time.perf_counter() - start_s)
                return True
            self._training_lead_s = 0.0
        return False

    def _receive(self) -> None:
        while self._inbox:
            command = self._inbox.popleft()
            if isinstance(command, Shutdown):
                self._stopped = True
            elif isinstance(command, CancelJob):
                self._cancel(command.job_id)
            elif isinstance(command, RunSample):
                self._sampling.add(command, self._ordered.num_setups_queued)
            else:
                self._ordered.add(command)

    def _cancel(self, job_id: str) -> None:
        found = [self._ordered.cancel(job_id), self._sampling.cancel(job_id)]
        if any(found):
            self._outbox.fail(job_id, CancelledError("The job was cancelled; it had no effect."))
