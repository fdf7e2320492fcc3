"""Who waits for room in the key-value cache, and who gets it next.

Requests are taken in the order they came, as many samples of each as there is room for; rows that had to
give their place back come before them. Room is reckoned from what the rows hold now and will soon need,
not from the longest answer that they may give: most answers end early, and a row that finds no room later
gives way and is read again. Knows no tensors; called by ``sampler.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from eztinker.engine.worker.rows import Row, SampleRequest
from eztinker.errors import TooLargeError

MAX_ROWS = 256
_HEADROOM = 256
"""Tokens that a row must have room to generate before it starts."""


class Admission:
    """Waiting requests and rows of one base model, and the bound on its cache.

    Args:
        max_tokens: bound on rows times the longest row, in tokens.
        one_by_one: a request starts only when no other is running.

    Attributes:
        requests: with samples that have no row yet, in order.
        rows: that gave their place back, in order.
        max_rows: bound on rows for the time being; less than ``MAX_ROWS`` after memory ran out.
    """

    def __init__(self, max_tokens: int, *, one_by_one: bool) -> None:
        self.max_tokens = max_tokens
        self.max_rows = MAX_ROWS
        self.requests: deque[SampleRequest] = deque()
        self.rows: deque[Row] = deque()
        self._one_by_one = one_by_one

    def add(self, request: SampleRequest) -> None:
        """Queue a request.

        Raises:
            TooLargeError: not even one of its samples will ever fit.
        """
        if request.num_cache_tokens > self.max_tokens:
            num_prompt = len(request.operation.prompt_tokens)
            raise TooLargeError(
                f"prompt and max_tokens: {num_prompt} + {request.max_tokens} tokens; the key-value cache "
                f"holds at most {self.max_tokens} (setting kv_cache_tokens). Ask for fewer tokens, or "
                "give the cache more room.",
                field="max_tokens",
                details={"limit": self.max_tokens, "setting": "kv_cache_tokens"},
            )
        self.requests.append(request)

    def cancel(self, request: SampleRequest) -> None:
        """Forget a request and its rows."""
        if request in self.requests:
            self.requests.remove(request)
        self.rows = deque(row for row in self.rows if row.request is not request)

    def put_back(self, request: SampleRequest, samples: list[int]) -> None:
        """Queue samples again whose prompt was read in vain."""
        request.unstarted = samples + request.unstarted
        if request not in self.requests:
            self.requests.appendleft(request)

    def next_row(self, running: Sequence[Row], reading: Sequence[SampleRequest]) -> Row | None:
        """A row that comes back now; it leaves the queue.

        Args:
            running: rows in the batch.
            reading: of the prompts being read, once for each sample that starts with them.
        """
        if not self.rows:
            return None
        row = self.rows[0]
        width = max(_width(running, reading), _soon(row.request, row.num_tokens))
        if not self._fits(len(running) + len(reading) + 1, width):
            return None
        return self.rows.popleft()

    def count_for(
        self, request: SampleRequest, running: Sequence[Row], reading: Sequence[SampleRequest]
    ) -> int:
        """How many samples of a request may start now; arguments as for ``next_row``."""
        num_busy = len(running) + len(reading)
        if self.rows or (self._one_by_one and num_busy):
            return 0
        width = max(_width(running, reading), _soon(request, len(request.operation.prompt_tokens)))
        room = max(min(self.max_tokens // width, self.max_rows) - num_busy, int(not num_busy))
        if request.max_tokens == 0:  # only scored: one reading serves all its samples
            return len(request.unstarted) if room > 0 else 0
        return max(0, min(len(request.unstarted), room))

    def overflows(self, lengths: Sequence[int]) -> bool:
        """Whether rows of so many cached positions pass the bound with their next token."""
        return len(lengths) > 1 and len(lengths) * (max(lengths) + 1) > self.max_tokens

    def _fits(self, num_rows: int, width: int) -> bool:
        within = num_rows <= self.max_rows and num_rows * width <= self.max_tokens
        return within or num_rows == 1


def _width(running: Sequence[Row], reading: Sequence[SampleRequest]) -> int:
    rows = (_soon(row.request, row.num_tokens) for row in running)
    prompts = (_soon(request, len(request.operation.prompt_tokens)) for request in reading)
    return max((*rows, *prompts), default=0)


def _soon(request: SampleRequest, num_tokens: int) -> int:
    """Positions that a row of so many tokens will soon need."""
    return min(request.num_cache_tokens, num_tokens + _HEADROOM)
