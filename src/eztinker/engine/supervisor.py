"""Keeps one worker alive and turns its messages into answers.

``request`` sends a command and waits for the event that answers it; when the worker dies, all who
wait learn it, and another worker is started with the next epoch. Knows nothing of runs or the log:
what the new worker must be told is ``recovery.py``'s business. Called by ``loop.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from eztinker.engine.executors.base import Executor, WorkerDied
from eztinker.errors import EZTinkerError
from eztinker.types.commands import Command, Shutdown, WorkerSettings
from eztinker.types.error_info import ErrorInfo
from eztinker.types.events import (
    AdapterImported,
    BaseModelFailed,
    BaseModelLoaded,
    Event,
    JobDone,
    JobFailed,
    SignOfLife,
    StartRefused,
    StateRead,
    StateWritten,
    TokensDrawn,
    WorkerReady,
)
from eztinker.types.training import resident_key

log = logging.getLogger(__name__)

MAX_RESTART_DELAY_S = 10.0
START_TIMEOUT_S = 300.0
"""Importing torch from a cold, slow disk may take minutes."""
Answer = JobDone | StateWritten | StateRead | AdapterImported | BaseModelLoaded


class Supervisor:
    """One worker after another, behind one interface.

    Attributes:
        epoch: number of the present worker's life; grows by one with each start.
        ready: set while a worker listens.
        facts: what the present worker said of itself; None before it is ready.
        num_deaths: workers lost since the start.
        refused, refusal: the first worker cannot start with these settings, and why; none is tried again.
        start_failure: how the last worker ended if it never became ready; None otherwise.
        on_tokens: takes what streamed jobs have drawn.
    """

    def __init__(
        self,
        make_executor: Callable[[], Executor],
        settings: WorkerSettings,
        *,
        hang_timeout_s: float,
    ) -> None:
        self._make_executor = make_executor
        self._settings = settings
        self._hang_timeout_s = hang_timeout_s
        self._executor: Executor | None = None
        self._pending: dict[str, asyncio.Future[Answer]] = {}
        self._last_sign_s = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.epoch = settings.epoch
        self.ready = asyncio.Event()
        self.facts: WorkerReady | None = None
        self.num_deaths = 0
        self.start_failure: str | None = None
        self.refusal: EZTinkerError | None = None
        self.refused = asyncio.Event()
        self._has_lived = False
        self._has_answered = False
        self.on_tokens: Callable[[TokensDrawn], None] = _nobody_follows

    async def start(self) -> None:
        """Begin supervising; returns at once, ``ready`` tells when a worker listens."""
        self._tasks = [
            asyncio.create_task(self._live(), name="worker-life"),
            asyncio.create_task(self._watch(), name="worker-watch"),
        ]

    async def stop(self, *, grace_s: float = 2.0) -> None:
        """Let the worker finish background writes for ``grace_s``, then end it."""
        self._stopping = True
        if self._executor is not None and self.ready.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._executor.send(Shutdown())
                    await asyncio.shield(self._tasks[0])
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._executor is not None:
            await self._executor.kill()
        self._fail_pending(WorkerDied("the server is stopping"))

    async def request(self, key: str, command: Command, *, epoch: int) -> Answer:
        """Send a command; return the event that answers it.

        Args:
            key: the command's job id, or ``base:`` and ``resident_key`` for ``LoadBaseModel``.
            epoch: the worker's life for which the command was prepared.

        Raises:
            WorkerDied: before an answer came.
            EZTinkerError: the worker refused or failed; the state is as before.
        """
        return await (await self.post(key, command, epoch=epoch))

    async def post(self, key: str, command: Command, *, epoch: int) -> asyncio.Future[Answer]:
        """Like ``request``, but return as soon as the command is sent, with what will answer it.

        Commands sent afterwards are executed afterwards.
        """
        if not self.ready.is_set() or self._executor is None or epoch != self.epoch:
            raise WorkerDied(f"worker {epoch} is gone")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: self._pending.pop(key, None))
        if not self._pending:
            self._last_sign_s = time.monotonic()  # it owed nothing, so it was free to be silent
        self._pending[key] = future
        await self._executor.send(command)
        return future

    async def tell(self, command: Command) -> None:
        """Send a command that has no answer; lost if no worker is ready."""
        if self.ready.is_set() and self._executor is not None:
            await self._executor.send(command)

    # One life after another -----------------------------------------------------------------------

    async def _live(self) -> None:
        delay_s = 0.0
        while not self._stopping:
            await asyncio.sleep(delay_s)
            self._has_answered = False
            death = await self._one_life()
            if self._stopping:
                return
            self.num_deaths += 1
            if not self.ready.is_set():
                self.start_failure = self.refusal.message if self.refusal else str(death)
            if self.refusal is not None:
                self._end_of_life(death)
                return
            log.warning("Engine worker %d ended (%s); starting another.", self.epoch, death)
            self._end_of_life(death)
            # One that worked is replaced at once; one that cannot start is not hammered.
            delay_s = 0.0 if self._has_answered else min(MAX_RESTART_DELAY_S, delay_s * 2 + 0.1)

    async def _one_life(self) -> WorkerDied:
        """Start a worker and listen to it; return how it ended."""
        self.epoch += 1
        self._last_sign_s = time.monotonic()
        try:
            self._executor = self._make_executor()
            await self._executor.start(replace(self._settings, epoch=self.epoch))
            while True:
                self._on_event(await self._executor.receive())
        except WorkerDied as death:
            return death
        except Exception as error:
            # A process that could not be made, or a word that could not be understood.
            log.exception("Engine worker %d is given up.", self.epoch)
            if self._executor is not None:
                await self._executor.kill()
            return WorkerDied(f"{type(error).__name__}: {error}")

    def _end_of_life(self, death: WorkerDied) -> None:
        self.ready.clear()
        self.facts = None
        self._fail_pending(death)

    def _fail_pending(self, death: WorkerDied) -> None:
        for future in list(self._pending.values()):
            if not future.done():
                future.set_exception(WorkerDied(str(death)))

    async def _watch(self) -> None:
        """Replace a worker that owes its readiness or an answer and gives no sign of life."""
        while True:
            await asyncio.sleep(min(1.0, self._hang_timeout_s / 4))
            silent_s = time.monotonic() - self._last_sign_s
            starting = not self.ready.is_set()
            limit_s = (
                max(START_TIMEOUT_S, self._hang_timeout_s) if starting else self._hang_timeout_s
            )
            owes = starting or self._pending
            if owes and silent_s > limit_s and self._executor is not None:
                log.warning(
                    "Engine worker %d silent for %.0f s; replacing it.", self.epoch, silent_s
                )
                self._last_sign_s = time.monotonic()
                await self._executor.kill()

    # Events ---------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        self._last_sign_s = time.monotonic()
        if event.epoch != self.epoch:
            return  # a late word of a worker that has been given up
        match event:
            case WorkerReady():
                self.facts = event
                self.start_failure = None
                self._has_lived = True
                self.ready.set()
            case StartRefused():
                if not self._has_lived:
                    self.refusal = event.error.as_error()
                    self.refused.set()
            case JobDone() | StateWritten() | StateRead() | AdapterImported():
                self._answer(event.job_id, event)
            case BaseModelLoaded():
                self._answer(f"base:{resident_key(event.base_model, event.quantization)}", event)
            case JobFailed():
                self._refuse(event.job_id, event.error)
            case BaseModelFailed():
                self._refuse(
                    f"base:{resident_key(event.base_model, event.quantization)}", event.error
                )
            case TokensDrawn():
                self.on_tokens(event)
            case SignOfLife():
                pass

    def _answer(self, key: str, answer: Answer) -> None:
        self._has_answered = True
        future = self._pending.get(key)
        if future is not None and not future.done():
            future.set_result(answer)

    def _refuse(self, key: str, error: ErrorInfo) -> None:
        future = self._pending.get(key)
        if future is not None and not future.done():
            future.set_exception(error.as_error())


def _nobody_follows(_event: TokensDrawn) -> None:
    """Until a loop takes them."""
