"""Two halves of a model pass side by side: each in a thread of its own, with half of torch's threads.

Threads that share every operation wait for each other at the end of each, and small operations do not
divide at all; halves meet once. Here are the threads and the rule by which sizes fall into halves, which knows
nothing but the sizes, so that a replay divides as the pass did. What belongs together, and what halves compute, is the
matter of those who call this: ``micro_batch.py``, ``prefill.py`` and ``decode_step.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

Result = TypeVar("Result")

_SMALLEST_HALF = 128
"""Rows below which Python, of which one thread runs at a time, takes longer than the tensors."""
_LARGEST_SHARE = 0.56
"""Of all rows in one half; beyond it the other half waits for longer than threads wait for each other."""


def divided(sizes: Sequence[int]) -> list[list[int]]:
    """Places of the sizes in two halves of nearly equal sum, each in order; all in one if that is better.

    Args:
        sizes: rows of what cannot be divided.
    """
    whole = [list(range(len(sizes)))]
    if torch.get_num_threads() < 2 or len(sizes) < 2:
        return whole
    halves: list[list[int]] = [[], []]
    sums = [0, 0]
    for place in sorted(whole[0], key=lambda place: -sizes[place]):
        lighter = int(sums[1] < sums[0])
        halves[lighter].append(place)
        sums[lighter] += sizes[place]
    if min(sums) < _SMALLEST_HALF or max(sums) > _LARGEST_SHARE * sum(sums):
        return whole
    return [sorted(half) for half in halves]


def side_by_side(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """Results of at most two tasks, in order, when all have ended.

    Raises:
        Exception: that of the first task that failed.
    """
    futures = [_threads(torch.get_num_threads()).submit(task) for task in tasks]
    try:
        failures = [future.exception() for future in futures]
        for failure in failures:
            if failure is not None:
                raise failure
        return [future.result() for future in futures]
    finally:
        # A failure holds this frame, which must not hold the failure: it keeps tensors alive.
        futures, failures, failure = [], [], None


@cache
def _threads(num_threads: int) -> ThreadPoolExecutor:
    """Two threads that compute with half as many each."""

    def begin() -> None:
        torch.set_num_threads(max(1, num_threads // 2))
        torch.get_num_threads()  # at its first question a thread takes the number that was set last, by whomever

    pool, both = ThreadPoolExecutor(2, "lane", initializer=begin), Barrier(2)
    for future in [pool.submit(both.wait) for _ in range(2)]:
        future.result()
    torch.set_num_threads(num_threads)
    return pool
