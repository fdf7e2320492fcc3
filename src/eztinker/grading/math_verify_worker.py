"""The math-verify worker: a process that compares two expressions per line until its input ends.

Run as ``python -m eztinker.grading.math_verify_worker`` by ``math_verify_pool.py``, which kills it when an
expression takes too long. It speaks JSON lines: first ``{"ready": …}``, then one ``{"is_equal": …}`` per
``{"answer", "truth", "timeout_s"}``. It reads no files and keeps no state.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

_MEMORY_LIMIT_BYTES = 2 * 1024**3


def main() -> None:
    """Serve standard input."""
    warnings.simplefilter("ignore")
    _limit_memory()
    try:
        is_equal = _load_math_verify()
    except ImportError as error:
        _say({"ready": False, "reason": str(error)})
        return
    _say({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        _set_alarm(request["timeout_s"] + 1.0)
        _say({"is_equal": is_equal(request["answer"], request["truth"])})
        _set_alarm(0.0)


def _load_math_verify() -> Callable[[str, str], bool]:
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    configs = (LatexExtractionConfig(),)

    def read(text: str) -> list[Any]:
        # The box makes the whole text the answer, so that the library does not pick a part of it.
        return parse(f"\\boxed{{{text}}}", configs, parsing_timeout=0)

    def is_equal(answer: str, truth: str) -> bool:
        try:
            parsed, expected = read(answer), read(truth)
            if not parsed or not expected:  # two failed parses are never equal
                return False
            return bool(verify(expected, parsed, timeout_seconds=None))
        except Exception:  # any failure on hostile text means: not shown to be equal
            return False

    is_equal("1", "1")  # builds the parser tables before the first timed call
    return is_equal


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = _MEMORY_LIMIT_BYTES if hard == resource.RLIM_INFINITY else min(hard, _MEMORY_LIMIT_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _set_alarm(seconds: float) -> None:
    """The default action of the alarm ends the process even inside C code, should the parent be gone."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    main()
