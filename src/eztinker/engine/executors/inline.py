"""An engine worker in a thread of this process: for tests, and where no process can be started.

Messages pass through the codec all the same, so what works here works over a socket. The worker starts
as soon as torch is imported; ``kill`` stops it between two units of work.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from eztinker.engine.executors.base import WorkerDied
from eztinker.errors import EZTinkerError
from eztinker.types.commands import COMMAND_TYPES, Command, Shutdown, WorkerSettings
from eztinker.types.events import EVENT_TYPES, Event, start_refused
from eztinker.types.framing import LENGTH_BYTES, frame, message_of

if TYPE_CHECKING:
    from eztinker.engine.worker.worker import Worker


class InlineExecutor:
    """One worker thread. Implements ``Executor``."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._worker: Worker | None = None
        self._waiting: list[Command] = []
        self._lock = threading.Lock()
        self._events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._end = "the worker was never started"

    async def start(self, settings: WorkerSettings) -> None:
        """Start the thread."""
        if self._thread is not None:
            raise RuntimeError("an executor has one life; make another for the next worker")
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._live, args=(_passed_on(settings, COMMAND_TYPES), loop), daemon=True
        )
        self._thread.start()

    async def send(self, command: Command) -> None:
        """Hand a command over."""
        command = _passed_on(command, COMMAND_TYPES)
        with self._lock:
            if self._worker is None:
                self._waiting.append(command)
            else:
                self._worker.submit(command)

    async def receive(self) -> Event:
        """The next event.

        Raises:
            WorkerDied: the thread has ended.
        """
        body = await self._events.get()
        if body is None:
            self._events.put_nowait(None)
            raise WorkerDied(self._end)
        return message_of(body, EVENT_TYPES)

    async def kill(self) -> None:
        """Stop after the present unit of work."""
        if self._thread is not None:
            await self.send(Shutdown())
            await asyncio.to_thread(self._thread.join)

    def _live(self, settings: WorkerSettings, loop: asyncio.AbstractEventLoop) -> None:
        from eztinker.engine.worker.worker import Worker

        def deliver(body: bytes | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, body)

        try:
            try:
                worker = Worker(settings, lambda event: deliver(frame(event)[LENGTH_BYTES:]))
            except (EZTinkerError, ImportError) as error:
                deliver(frame(start_refused(settings.epoch, error))[LENGTH_BYTES:])
                raise
            with self._lock:
                for command in self._waiting:
                    worker.submit(command)
                self._worker = worker
            worker.run()
            self._end = "the worker thread was stopped"
        except Exception as error:
            self._end = f"the worker thread ended with {type(error).__name__}: {error}"
        finally:
            deliver(None)


def _passed_on(message: Any, types: dict[str, type]) -> Any:
    """What the other side would receive."""
    return message_of(frame(message)[LENGTH_BYTES:], types)
