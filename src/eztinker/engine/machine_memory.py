"""How much memory this machine has for this process. Called by the worker and by ``eztinker estimate``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_CONTROL_GROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def machine_memory_bytes() -> int:
    """Physical memory within the bound of this process's control group (a container's); 0 if unknown."""
    bounds = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        bounds.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _CONTROL_GROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            bounds.append(int(path.read_text()))
    return min(bounds, default=0)
