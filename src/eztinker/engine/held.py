"""Jobs that wait for a number of their run which has not arrived: a pure buffer without clock or I/O.

Clients number their requests and send them side by side, so that later ones may arrive first. Knows
no scheduler; it gives out, in order, what may be queued. Called by ``loop.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Gap(Generic[T]):
    """What waits behind a run's first missing number.

    Attributes:
        missing: that number.
        since_s: when something first waited for it.
        jobs: by their own numbers.
    """

    missing: int
    since_s: float
    jobs: dict[int, T] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stale(Generic[T]):
    """Jobs that have waited too long, and the number that they waited for."""

    run_id: str
    missing: int
    jobs: list[T]


class Held(Generic[T]):
    """Held jobs of all runs."""

    def __init__(self) -> None:
        self._gaps: dict[str, _Gap[T]] = {}
        # Two requests may be told of in another order than they were logged in: the higher one counts.
        self._next_seqs: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(len(gap.jobs) for gap in self._gaps.values())

    def num_of_run(self, run_id: str) -> int:
        """Held jobs of a run."""
        return len(self._gaps[run_id].jobs) if run_id in self._gaps else 0

    def missing(self, run_id: str, seq: int | None) -> int | None:
        """The number that job ``seq`` of a run waits for; None if it is not held."""
        gap = self._gaps.get(run_id)
        return gap.missing if gap is not None and seq in gap.jobs else None

    def is_awaited(self, run_id: str, seq: int) -> bool:
        """Whether held jobs of the run come after ``seq``, so that it is one that they wait for."""
        gap = self._gaps.get(run_id)
        return gap is not None and any(held > seq for held in gap.jobs)

    def add(self, run_id: str, seq: int, job: T, *, next_seq: int, now_s: float) -> list[T]:
        """Take in a job and give out, in order, what may be queued now.

        Args:
            next_seq: lowest number of the run that has not arrived.
        """
        if seq == 0:  # the run's own creation: whatever had its name before is gone
            self._next_seqs.pop(run_id, None)
        next_seq = max(next_seq, self._next_seqs.get(run_id, 0))
        gap = self._gaps.setdefault(run_id, _Gap(min(seq, next_seq), now_s))
        gap.jobs[seq] = job
        gap.missing = min(gap.missing, seq)
        return self.release(run_id, next_seq, now_s=now_s)

    def release(self, run_id: str, next_seq: int, *, now_s: float) -> list[T]:
        """Give out, in order, what waited for numbers below ``next_seq``."""
        next_seq = self._next_seqs[run_id] = max(next_seq, self._next_seqs.get(run_id, 0))
        gap = self._gaps.get(run_id)
        if gap is None:
            return []
        ready = [gap.jobs.pop(seq) for seq in range(gap.missing, next_seq) if seq in gap.jobs]
        if next_seq > gap.missing:
            gap.missing, gap.since_s = next_seq, now_s
        if not gap.jobs:
            del self._gaps[run_id]
        return ready

    def take(self, run_id: str, seq: int | None) -> bool:
        """Take a job out that will not run; False if it is not held."""
        gap = self._gaps.get(run_id)
        if gap is None or seq is None or gap.jobs.pop(seq, None) is None:
            return False
        if not gap.jobs:
            del self._gaps[run_id]
        return True

    def stale(self, *, before_s: float) -> list[Stale[T]]:
        """What has waited for the same number since before ``before_s``; it stays held."""
        return [
            Stale(run_id, gap.missing, list(gap.jobs.values()))
            for run_id, gap in self._gaps.items()
            if gap.since_s < before_s
        ]
