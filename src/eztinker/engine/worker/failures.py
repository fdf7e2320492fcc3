"""What goes wrong, as a message; and a sign of life where work cannot give one itself.

Called by ``worker.py``.
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

_BEAT_S = 0.5
_MAX_LOADING_S = 900


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
    """Reports while one call that cannot report itself (reading weights) is in progress."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def _run(self) -> None:
        deadline_s = time.monotonic() + _MAX_LOADING_S  # a read that hangs must be seen to hang
        while not self._done.wait(_BEAT_S) and time.monotonic() < deadline_s:
            self._beat()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
