"""Functions of tensors that torch's own interpreter runs instead of Python's: the same operations, the same bits.

Between two small operations Python spends about as long as the operation takes, and two threads with small
operations wait for Python's lock longer than they compute. TorchScript does without both. Nothing is compiled,
fused or specialised here: its optimisation is switched off for each call. torch calls it deprecated; where it
does not support the Python it runs on, Python itself runs the function. Knows no function by name.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

IS_SUPPORTED = sys.version_info < (3, 14)
"""Whether torch's interpreter understands functions of this Python."""
_lock = Lock()


def interpreted(function: Callable[..., Result]) -> Callable[..., Result]:
    """The same function, run by torch's interpreter; it is read at its first call.

    On another device than a CPU Python runs it: there the operations take their time elsewhere.

    Args:
        function: of a tensor first, then of tensors, numbers, strings and lists of these, annotated throughout, that calls nothing but
            torch and such functions. Positional arguments only.
    """
    if not IS_SUPPORTED:
        return function
    scripts: list[Any] = []

    @wraps(function)
    def run(*arguments: Any) -> Result:
        if arguments[0].device.type != "cpu":
            return function(*arguments)
        if not scripts:
            with _lock:
                scripts.append(_script(function))
        with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
            return scripts[0](*arguments)

    return run


def _script(function: Callable[..., Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)
