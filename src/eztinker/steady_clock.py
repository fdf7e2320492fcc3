"""The time by which things expire: the wall clock's at start, then one that nobody can set.

A machine's clock may be put right, or wrong, while a server runs; what was promised for a day must live
a day all the same. Called by whoever gives something an end or ends it.
"""

from __future__ import annotations

import time

# Counts while the machine sleeps, where there is such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_OFFSET_S = time.time() - time.clock_gettime(_CLOCK)


def now_s() -> float:
    """Seconds since the epoch, going forward one a second whatever becomes of the wall clock."""
    return _OFFSET_S + time.clock_gettime(_CLOCK)
