"""Where events leave a worker: one at a time, whichever thread they come from.

Knows no command and no model. ``worker.py`` makes the only one; ordered work, sampling, background writes
and the heartbeat share it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from eztinker.engine.worker.failures import error_info
from eztinker.types.events import Event, JobFailed, SignOfLife

_QUIET_S = 0.5
"""After so long without an event a sign of life is due."""


class Outbox:
    """Sends events.

    Args:
        epoch: of this worker's life; events carry it.
        emit: takes each event; never called by two threads at once.

    Attributes:
        epoch: as given.
    """

    def __init__(self, epoch: int, emit: Callable[[Event], None]) -> None:
        self.epoch = epoch
        self._emit, self._lock = emit, threading.Lock()
        self._last_event_s = time.monotonic()

    def send(self, event: Event) -> None:
        """Emit an event."""
        with self._lock:
            self._last_event_s = time.monotonic()
            self._emit(event)

    def fail(self, job_id: str, error: Exception) -> None:
        """Emit that a job ended without effect."""
        self.send(JobFailed(self.epoch, job_id, error_info(error, job_id)))

    def show_life(self) -> None:
        """Emit a sign of life, unless an event went out just before."""
        if time.monotonic() - self._last_event_s >= _QUIET_S:
            self.send(SignOfLife(self.epoch))
