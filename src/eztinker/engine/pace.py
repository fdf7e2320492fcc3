"""How fast jobs come to their ends, so that waiting ones can be told how long it may take. Pure.

The mean time between two ends while there was work, over the last few dozen; idle time does not count.
Called by ``loop.py``, which has the clock.
"""

from __future__ import annotations

_WEIGHT = 0.05
"""Of the newest interval in the mean."""


class Pace:
    """Mean time between the ends of jobs of one kind."""

    def __init__(self) -> None:
        self._last_end_s = float("-inf")
        self._interval_s: float | None = None

    def note_end(self, *, started_s: float, ended_s: float) -> None:
        """A job has ended; both readings of one clock."""
        interval_s = max(0.0, ended_s - max(started_s, self._last_end_s))
        self._last_end_s = ended_s
        if self._interval_s is None:
            self._interval_s = interval_s
        else:
            self._interval_s += _WEIGHT * (interval_s - self._interval_s)

    def wait_s(self, num_before: int) -> float | None:
        """About how long until so many jobs have ended; None while nothing is known."""
        return None if self._interval_s is None else num_before * self._interval_s
