"""A sign of life from a worker whose present unit of work cannot give one itself.

Knows no work and sends nothing. Made by ``worker.py``, around each unit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BEAT_S = 0.5
MAX_UNIT_S = 1800.0


class Heartbeat:
    """Reports while one unit of work takes long: reading weights, a large micro-batch on a slow machine.

    Beats from a thread, as such work cannot report itself; a process that is stopped or that holds the
    interpreter does not beat. A unit that takes longer than ``MAX_UNIT_S`` is no longer reported, so that
    a call that never returns is seen to hang.

    Args:
        beat: called about twice a second within a unit that takes so long, from the thread.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._is_busy = threading.Event()
        self._is_over = False
        self._deadline_s = 0.0

    def start(self) -> None:
        """Begin; nothing is reported before."""
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Report no more."""
        self._is_over = True
        self._is_busy.set()

    def _run(self) -> None:
        while self._is_busy.wait() and not self._is_over:
            time.sleep(BEAT_S)
            if self._is_busy.is_set() and not self._is_over and time.monotonic() < self._deadline_s:
                self._beat()

    def __enter__(self) -> None:
        self._deadline_s = time.monotonic() + MAX_UNIT_S
        self._is_busy.set()

    def __exit__(self, *exc: object) -> None:
        self._is_busy.clear()
