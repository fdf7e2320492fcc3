"""The tokens of one running sampling job, for whoever follows it while it runs.

Each token is shown once and in its place, also when a worker dies and the job is drawn again: equal requests
on equal weights give equal tokens, so the second drawing passes over what is known. Nothing here is durable
(the job's result is). Knows no text. Filled by ``loop.py``, read by ``service/jobs.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from eztinker.types.messages import TokensDrawn

GATHER_S = 0.04
"""How long a busy server lets the tokens of one stream gather: sending each by itself takes time from drawing."""


@dataclass(frozen=True, slots=True)
class DrawnToken:
    """One token of one sample.

    Attributes:
        sample: number of the sample in its job.
        token, logprob: id and log-probability.
        topk_ids, topk_logprobs: the likeliest tokens there, best first; empty unless asked for.
    """

    sample: int
    token: int
    logprob: float
    topk_ids: list[int]
    topk_logprobs: list[float]


class TokenStream:
    """Tokens in the order in which they were drawn; any number may follow.

    Args:
        is_busy: whether so many streams run that tokens after the first are better shown a few at a time.

    Attributes:
        has_diverged: a second drawing gave another token than the first; nothing more is shown.
    """

    def __init__(self, is_busy: Callable[[], bool] = lambda: False) -> None:
        self._is_busy = is_busy
        self._tokens: list[DrawnToken] = []
        self._of_sample: dict[int, list[int]] = {}
        self._changed = asyncio.Event()
        self._is_closed = False
        self.has_diverged = False

    def put(self, event: TokensDrawn, index: int) -> None:
        """Take entry ``index`` of an event."""
        sample, place, token = event.samples[index], event.places[index], event.tokens[index]
        known = self._of_sample.setdefault(sample, [])
        if place < len(known):
            self.has_diverged |= known[place] != token
        if self.has_diverged or place != len(known):
            return
        known.append(token)
        self._tokens.append(
            DrawnToken(
                sample,
                token,
                event.logprobs[index],
                event.topk_ids[index],
                event.topk_logprobs[index],
            )
        )
        self._wake()

    def close(self) -> None:
        """The job has ended; those who follow are let go."""
        self._is_closed = True
        self._wake()

    async def follow(self) -> AsyncIterator[list[DrawnToken]]:
        """What has been drawn, from the beginning, as it comes; ends with the job."""
        num_seen = 0
        while True:
            if num_seen < len(self._tokens):
                new = self._tokens[num_seen:]
                num_seen += len(new)
                yield new
                if self._is_busy() and not self._is_closed:
                    await asyncio.sleep(GATHER_S)
            elif self._is_closed:
                return
            else:
                await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
