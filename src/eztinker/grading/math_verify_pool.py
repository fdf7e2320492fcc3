"""A pool of math-verify worker processes: each call has a time bound, and a worker that misses it is killed.

Symbolic comparison of hostile text can run for ever inside C code, where no thread or signal handler helps;
a process can always be killed. Workers start at the first call, are reused, and end with this process.
``math.py`` is the caller; what the workers compute is in ``math_verify_worker.py``.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

logger = logging.getLogger(__name__)

_WORKER_COMMAND = ("-P", "-m", "eztinker.grading.math_verify_worker")
_MAX_START_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer of the pool.

    Attributes:
        is_equal: whether both sides were shown to be equal.
        status: ``used``, ``timeout`` (no answer in time) or ``unavailable`` (no worker, or it died).
    """

    is_equal: bool
    status: str


class MathVerifyPool:
    """At most ``num_workers`` worker processes, shared by the threads of this process.

    Args:
        num_workers: comparisons that may run at the same time, at least 1.
        start_timeout_s: how long a worker may take to load math-verify (about 1 s on a laptop).
        command: arguments after the interpreter; tests put another worker here.
    """

    def __init__(
        self,
        num_workers: int = 2,
        start_timeout_s: float = 30.0,
        command: tuple[str, ...] = _WORKER_COMMAND,
    ) -> None:
        self._start_timeout_s = start_timeout_s
        self._command = command
        self._places: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(num_workers):
            self._places.put(None)
        self._failures = 0
        self._closed = False

    def verify(self, answer: str, truth: str, timeout_s: float) -> Verdict:
        """Compare two LaTeX expressions.

        Takes at most ``timeout_s`` to get a worker, ``start_timeout_s`` when one must be started, and
        ``timeout_s`` for the comparison.
        """
        if self._closed or self._failures >= _MAX_START_FAILURES:
            return Verdict(False, "unavailable")
        try:
            worker = self._places.get(timeout=timeout_s)
        except queue.Empty:
            return Verdict(False, "timeout")
        try:
            worker = worker if worker and worker.is_alive() else self._start()
            if worker is None:
                return Verdict(False, "unavailable")
            verdict = worker.compare(answer, truth, timeout_s)
            if verdict.status != "used":
                worker.kill()
            return verdict
        finally:
            if worker is not None and self._closed:
                worker.kill()
            self._places.put(worker if worker and worker.is_alive() else None)

    def close(self) -> None:
        """End all workers and wait for them; later calls are ``unavailable``."""
        self._closed = True
        while True:
            try:
                worker = self._places.get_nowait()
            except queue.Empty:
                return
            if worker is not None:
                worker.kill()

    def _start(self) -> _Worker | None:
        try:
            worker = _Worker([sys.executable, *self._command])
        except OSError as error:
            return self._failed(str(error))
        ready = worker.receive(self._start_timeout_s)
        if ready is not None and ready.get("ready"):
            self._failures = 0
            return worker
        worker.kill()
        reason = "the worker did not start" if ready is None else str(ready.get("reason"))
        return self._failed(reason)

    def _failed(self, reason: str) -> None:
        self._failures += 1
        if self._failures == 1:
            logger.warning(
                "math-verify cannot be used (%s): numbers are still compared by the built-in rules, expressions "
                "only word for word. Install it with: pip install 'math-verify[antlr4_13_2]'",
                reason,
            )


class _Worker:
    """One process and the thread that reads its lines (a pipe cannot be read with a timeout everywhere)."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="math-verify-reader", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def compare(self, answer: str, truth: str, timeout_s: float) -> Verdict:
        request = {"answer": answer, "truth": truth, "timeout_s": timeout_s}
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            return Verdict(False, "unavailable")
        started = time.monotonic()
        reply = self.receive(timeout_s)
        if reply is not None:
            return Verdict(bool(reply.get("is_equal")), "used")
        in_time = time.monotonic() - started < timeout_s
        return Verdict(False, "unavailable" if in_time else "timeout")

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """The next line; None when it does not come in time or the process ended."""
        try:
            line = self._lines.get(timeout=timeout_s)
            return None if line is None else json.loads(line)
        except (queue.Empty, json.JSONDecodeError):
            return None

    def kill(self) -> None:
        """End the process and collect it, so that no zombie stays."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # unsent bytes of a dead worker
                    continue

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


@lru_cache(maxsize=1)
def _pool_of_process(pid: int) -> MathVerifyPool:
    pool = MathVerifyPool(num_workers=max(1, min(4, (os.cpu_count() or 2) // 2)))
    atexit.register(pool.close)
    return pool


def default_pool() -> MathVerifyPool:
    """The pool of this process; a forked child gets its own, since pipes must not be shared."""
    return _pool_of_process(os.getpid())
