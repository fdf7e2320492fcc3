"""What goes wrong, as a message; and a sign of life where work cannot give one itself.

Called by ``worker.py`` and those who work for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import torch

from eztinker.engine.worker.devices import is_out_of_memory
from eztinker.errors import EZTinkerError, OutOfMemoryError, ServerError
from eztinker.types.messages import ErrorInfo

logger = logging.getLogger(__name__)

BEAT_S = 0.5
MAX_UNIT_S = 1800.0


def error_info(error: Exception, what: str) -> ErrorInfo:
    """An exception as plain data; one that nobody raised on purpose is logged with its traceback.

    Args:
        error: what was caught.
        what: job or activity, for the log.
    """
    known = as_eztinker_error(error)
    if known is not error and not isinstance(known, OutOfMemoryError):
        logger.error("unexpected error in %s", what, exc_info=error)
    return ErrorInfo(known.code, known.message, known.category, known.field, known.details)


def as_eztinker_error(error: Exception) -> EZTinkerError:
    """The error itself, or what stands for it in the tree."""
    if isinstance(error, EZTinkerError):
        return error
    if is_out_of_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return OutOfMemoryError(
            "Memory ran out. Use shorter or fewer sequences, or a smaller model."
        )
    return ServerError(f"The engine failed with {type(error).__name__}; the log has the details.")


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
