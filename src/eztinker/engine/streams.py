"""The tokens of running sampling jobs, for whoever follows them while they run.

Each token is shown once and in its place, also when a worker dies and the job is drawn again: equal requests
on equal weights give equal tokens, so the second drawing passes over what is known. Nothing here is durable
(the job's result is). Knows no text. Filled by ``loop.py``, read by ``service/jobs.py``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DrawnTokens:
    """Successive tokens of one sample.

    Attributes:
        sample: number of the sample in its job.
        tokens, logprobs: ids and log-probabilities.
        topk_ids, topk_logprobs: the likeliest tokens at each place, best first; empty unless asked for.
    """

    sample: int
    tokens: list[int]
    logprobs: list[float]
    topk_ids: list[list[int]]
    topk_logprobs: list[list[float]]

    def without_first(self, number: int) -> DrawnTokens:
        """What comes after so many of them."""
        return DrawnTokens(
            self.sample,
            self.tokens[number:],
            self.logprobs[number:],
            self.topk_ids[number:],
            self.topk_logprobs[number:],
        )


class TokenStream:
    """Tokens of one job in the order in which they were drawn.

    Attributes:
        drawn: all of them.
        is_closed: no more will come.
        has_diverged: a second drawing gave another token than the first; nothing more is shown.
        listeners: called after each change.
    """

    def __init__(self) -> None:
        self.drawn: list[DrawnTokens] = []
        self.is_closed = self.has_diverged = False
        self.listeners: list[Callable[[], None]] = []
        self._of_sample: dict[int, list[int]] = {}

    def put(self, drawn: DrawnTokens, place: int) -> None:
        """Take tokens.

        Args:
            place: of the first of them in its sample.
        """
        known = self._of_sample.setdefault(drawn.sample, [])
        again = known[place : place + len(drawn.tokens)]
        self.has_diverged |= drawn.tokens[: len(again)] != again
        if self.has_diverged or place > len(known) or len(again) == len(drawn.tokens):
            return
        new = drawn.without_first(len(again)) if again else drawn
        known += new.tokens
        self.drawn.append(new)
        self._wake()

    def close(self) -> None:
        """The job has ended; those who follow are let go."""
        self.is_closed = True
        self._wake()

    def _wake(self) -> None:
        for listener in self.listeners:
            listener()


async def follow(
    streams: Sequence[TokenStream], *, patience_s: float = math.inf
) -> AsyncIterator[list[tuple[int, DrawnTokens]]]:
    """What has been drawn, from the beginning, as it comes; ends when all streams are closed.

    Args:
        streams: any number may follow each of them.
        patience_s: after so long without a token comes an empty list.

    Yields:
        (number of the stream, tokens).
    """
    signal = _Signal(patience_s)
    nums_seen = [0] * len(streams)
    for stream in streams:
        stream.listeners.append(signal.set)
    try:
        while True:
            is_open = not all(stream.is_closed for stream in streams)
            new: list[tuple[int, DrawnTokens]] = []
            for number, stream in enumerate(streams):
                new += [(number, drawn) for drawn in stream.drawn[nums_seen[number] :]]
                nums_seen[number] = len(stream.drawn)
            if new:
                yield new
            elif not is_open:
                return
            elif not await signal.wait():
                yield []
    finally:
        signal.cancel()
        for stream in streams:
            stream.listeners.remove(signal.set)


class _Signal:
    """Wakes one who waits. Waits are short and many, so they share one timer."""

    def __init__(self, patience_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._patience_s = patience_s
        self._waiter: asyncio.Future[bool] | None = None
        self._since_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self) -> bool:
        """True when something has happened, False after the time of patience."""
        self._since_s = self._loop.time()
        self._waiter = self._loop.create_future()
        if self._timer is None and self._patience_s < math.inf:
            self._timer = self._loop.call_later(self._patience_s, self._look)
        return await self._waiter

    def set(self) -> None:
        """Something has happened."""
        self._answer(True)

    def cancel(self) -> None:
        """Nobody will wait again."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        due_s = self._since_s + self._patience_s
        if self._loop.time() >= due_s:
            self._timer = None
            self._answer(False)
        else:
            self._timer = self._loop.call_at(due_s, self._look)

    def _answer(self, has_come: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(has_come)
