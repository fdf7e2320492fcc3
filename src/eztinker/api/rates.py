"""How often someone may ask, and how long a wrong key waits for its answer. Pure: the caller has the clock.

Bounded in memory whatever comes: only so many keys and addresses are remembered. Called by ``gate.py``.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from eztinker.errors import BusyError

MAX_REMEMBERED = 4096
BURST_S = 2.0
"""Requests of so many seconds may come at once."""
FIRST_DELAY_S = 0.25
MAX_DELAY_S = 4.0
MAX_HELD = 16
"""Wrong answers of one address that may wait at a time; each holds a connection."""
FORGIVEN_AFTER_S = 60.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class Rates:
    """A token bucket for each key.

    Args:
        per_s: requests in a second, on average.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def spend(self, key_id: str, now_s: float) -> None:
        """Count one request.

        Raises:
            BusyError: code ``rate_limited``; says when the next one may come.
        """
        most = max(1.0, self._per_s * BURST_S)
        bucket = self._buckets.get(key_id)
        if bucket is None:
            bucket = self._buckets[key_id] = _Bucket(most, now_s)
            if len(self._buckets) > MAX_REMEMBERED:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key_id)
        bucket.tokens = min(most, bucket.tokens + (now_s - bucket.at_s) * self._per_s)
        bucket.at_s = now_s
        if bucket.tokens < 1:
            raise BusyError(
                f"This key has sent more than {self._per_s:g} requests in a second "
                "(limits.max_requests_per_s). Ask for more in one request, or wait.",
                code="rate_limited",
                retry_after_s=(1 - bucket.tokens) / self._per_s,
            )
        bucket.tokens -= 1


class Guesses:
    """Wrong keys by address: each one waits longer than the one before."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._held: Counter[str] = Counter()

    def begin(self, address: str, now_s: float) -> float:
        """Count a wrong key; how long its answer must wait. ``end`` follows when it has.

        Raises:
            BusyError: code ``too_many_wrong_keys``, too many of the address's answers wait already.
        """
        if self._held[address] >= MAX_HELD:
            raise BusyError(
                "Too many requests with a wrong key from this address. Check the key.",
                code="too_many_wrong_keys",
                retry_after_s=MAX_DELAY_S,
            )
        count, last_s = self._wrong.pop(address, (0, now_s))
        count = 1 if now_s - last_s > FORGIVEN_AFTER_S else count + 1
        self._wrong[address] = (count, now_s)
        if len(self._wrong) > MAX_REMEMBERED:
            self._wrong.popitem(last=False)
        self._held[address] += 1
        return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(count - 1, 16))

    def end(self, address: str) -> None:
        """An answer has waited long enough."""
        self._held[address] -= 1
        if not self._held[address]:
            del self._held[address]
