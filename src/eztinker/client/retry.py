"""When to ask again: the pure decision after each try of one request.

Sees answers and the clock's reading, returns how long to pause or None to give up; it never sleeps, sends
or raises. Called by ``flows.py``, one ``Retry`` for each request.

=====================  ==================================================================
what came              what happens
=====================  ==================================================================
2xx, 4xx               final
429, 503               again after ``Retry-After`` (else backoff), until the deadline
500, 502, 504          again with exponential backoff, ``MAX_SERVER_ERRORS`` times
no memory, no disk     final: the same request would meet the same wall
connection refused     again for ``patience_s``: a restarting server looks like a pause
connection broken      at once, then like refused; the idempotency key makes that safe
silence                again, until the deadline
=====================  ==================================================================
"""

from __future__ import annotations

import random

from eztinker.client.answers import Answer, NoAnswer, error_of, retry_after_s

MAX_SERVER_ERRORS = 4
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
FIRST_RECONNECT_PAUSE_S = 0.05
LONGEST_RECONNECT_PAUSE_S = 1.0

_WAIT_STATUSES = frozenset({429, 503})
_SERVER_ERRORS = frozenset({500, 502, 504})
_FINAL_CODES = frozenset({"out_of_memory", "disk_full", "engine_crash", "not_finite"})


class Retry:
    """Decides about the tries of one request.

    Args:
        deadline_s: reading of the clock after which nothing is tried again.
        patience_s: how long to go on while nothing listens at the address.
    """

    def __init__(self, *, deadline_s: float, patience_s: float) -> None:
        self._deadline_s = deadline_s
        self._patience_s = patience_s
        self._num_answers = 0
        self._num_silences = 0
        self._silent_since_s: float | None = None

    def pause_after(self, outcome: Answer | NoAnswer, now_s: float) -> float | None:
        """Seconds to pause before the next try, or None when ``outcome`` is final."""
        if isinstance(outcome, NoAnswer):
            pause_s = self._after_no_answer(outcome, now_s)
        else:
            self._silent_since_s, self._num_silences = None, 0
            pause_s = self._after_answer(outcome)
        if pause_s is None or now_s + pause_s >= self._deadline_s:
            return None
        return pause_s

    def _after_answer(self, answer: Answer) -> float | None:
        if answer.status not in _WAIT_STATUSES | _SERVER_ERRORS:
            return None
        if error_of(answer).code in _FINAL_CODES:
            return None
        if answer.status in _SERVER_ERRORS and self._num_answers >= MAX_SERVER_ERRORS:
            return None
        told_s = retry_after_s(answer)
        backoff_s = _backoff(self._num_answers, FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._num_answers += 1
        return backoff_s if told_s is None else told_s

    def _after_no_answer(self, outcome: NoAnswer, now_s: float) -> float | None:
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        num_silences, self._num_silences = self._num_silences, self._num_silences + 1
        if outcome.kind == "timeout":
            return 0.0
        if outcome.kind == "broken" and num_silences == 0:
            # Mostly a kept connection that the server closed while it was idle.
            return 0.0
        pause_s = _backoff(num_silences, FIRST_RECONNECT_PAUSE_S, LONGEST_RECONNECT_PAUSE_S)
        is_over = now_s + pause_s - self._silent_since_s > self._patience_s
        return None if is_over else pause_s


def _backoff(num_tries: int, first_s: float, longest_s: float) -> float:
    """Doubling pauses, spread by a fifth so that many clients do not come back together."""
    spread = random.uniform(0.8, 1.2)  # noqa: S311 - not a secret
    return min(longest_s, first_s * 2 ** min(num_tries, 16)) * spread
