"""CPU time of processes, read from /proc (Linux): what a busy machine disturbs least.

Knows nothing of what is measured. Called by the benchmarks beside it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of all threads so far, in steps of a hundredth of a second."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def engine_cpu_s(worker_pid: int) -> float:
    """The same of this process, of a worker, and of the server that started it, together."""
    return sum(engine_cpus_s(worker_pid).values())


def engine_cpus_s(worker_pid: int) -> dict[str, float]:
    """The same, one by one: ``client`` (this process), ``server`` and ``worker``."""
    return {
        "client": time.process_time(),
        "server": cpu_s(int(_stat(worker_pid)[1])),
        "worker": cpu_s(worker_pid),
    }


def _stat(pid: int) -> list[str]:
    """Fields behind the command's name, whose parentheses may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
