"""A live service in an event loop of its own thread, so that plain (hypothesis) tests can ask it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import httpx

from .live_service import Live, live

T = TypeVar("T")

PATIENCE_S = 20.0


class Background:
    """Ask with ``request``; every answer is checked for what must never be in one."""

    def __init__(self, state_dir: Path, **settings: Any) -> None:
        self._folder = str(state_dir)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self.live: Live = self.run(self._stack.enter_async_context(live(state_dir, **settings)))
        self.client = self.live.client()
        self.statuses: Counter[int] = Counter()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The value of a coroutine of the other loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    def close(self) -> None:
        """Stop the service and its loop."""
        self.run(self.client.aclose())
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def request(self, method: str, url: str, **content: Any) -> httpx.Response:
        """One answer: no fault of ours, no hang, nothing that is nobody's business."""
        return self.request_all([{"method": method, "url": url, **content}])[0]

    def request_all(self, requests: Sequence[dict[str, Any]]) -> list[httpx.Response]:
        """Answers to requests that are on their way together, each checked like one."""
        began_s = time.monotonic()
        answers = self.run(self._gather(requests))
        assert time.monotonic() - began_s < PATIENCE_S, requests
        for request, answer in zip(requests, answers, strict=True):
            self._check(request, answer)
        return answers

    async def _gather(self, requests: Sequence[dict[str, Any]]) -> list[httpx.Response]:
        return await asyncio.gather(*(self.client.request(**request) for request in requests))

    def _check(self, request: dict[str, Any], answer: httpx.Response) -> None:
        self.statuses[answer.status_code] += 1
        text = answer.text
        is_sound = answer.status_code < 500 and "Traceback" not in text
        if answer.status_code >= 400:
            is_sound &= self._folder not in text and "site-packages" not in text
        assert is_sound, f"{str(request)[:500]}: {answer.status_code} {text[:500]}"
