"""What goes wrong in a worker, as a member of the tree of errors and as plain data.

Called by ``worker.py`` and those who work for it.
"""

from __future__ import annotations

import logging

import torch

from eztinker.engine.worker.devices import is_out_of_memory
from eztinker.errors import EZTinkerError, OutOfMemoryError, ServerError
from eztinker.types.error_info import ErrorInfo

logger = logging.getLogger(__name__)


def error_info(error: Exception, what: str) -> ErrorInfo:
    """An exception as plain data; one that nobody raised on purpose is logged with its traceback.

    Args:
        error: what was caught.
        what: job or activity, for the log.
    """
    known = as_eztinker_error(error)
    if known is not error and not isinstance(known, OutOfMemoryError):
        logger.error("unexpected error in %s", what, exc_info=error)
    return ErrorInfo.of(known)


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
