"""Resident memory of processes, read from /proc (Linux).

Knows nothing of what is measured. Called by the benchmarks beside it.
"""

from __future__ import annotations

import os
from pathlib import Path

_WORKER = b"eztinker.engine.worker.process"


def resident_bytes(pid: int) -> int:
    """Memory held now."""
    return _status_bytes(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Most memory held since ``reset_peak``."""
    return _status_bytes(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    """Forget the peak."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def worker_pid() -> int:
    """The engine worker below this process.

    Raises:
        RuntimeError: there is not exactly one.
    """
    parents, workers = {}, []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat, words = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
        if _WORKER in words:
            workers.append(int(folder.name))
    ours = [pid for pid in workers if _is_below(pid, os.getpid(), parents)]
    if len(ours) != 1:
        raise RuntimeError(f"expected one engine worker below this process, found {len(ours)}")
    return ours[0]


def _is_below(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == ancestor:
            return True
    return False


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/status has no {name}")
