"""An engine worker in a process of its own, over a socket pair: the default executor.

Moves messages and notices death. Which worker lives and what it does is decided elsewhere
(``engine/supervisor.py``, ``engine/loop.py``). Imports no torch: the worker's process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys

from eztinker.engine.executors.base import WorkerDied
from eztinker.types.commands import Command, WorkerSettings
from eztinker.types.events import EVENT_TYPES, Event
from eztinker.types.framing import LENGTH_BYTES, frame, frame_length, message_of


class SubprocessExecutor:
    """One worker process. Implements ``Executor``."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None before ``start``."""
        return self._process.pid if self._process is not None else None

    async def start(self, settings: WorkerSettings) -> None:
        """Start the process and send it its settings."""
        if self._process is not None:
            raise RuntimeError("an executor has one life; make another for the next worker")
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "eztinker.engine.worker.process",
                "--fd",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_fileno(sys.stderr) else None,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        await self._write(frame(settings))

    async def send(self, command: Command) -> None:
        """Hand a command over."""
        await self._write(frame(command))

    async def receive(self) -> Event:
        """The next event.

        Raises:
            WorkerDied: with the exit code or the signal.
        """
        if self._reader is None:
            raise WorkerDied("the worker was never started")
        try:
            head = await self._reader.readexactly(LENGTH_BYTES)
            body = await self._reader.readexactly(frame_length(head))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise WorkerDied(await self._how_it_ended()) from error
        return message_of(body, EVENT_TYPES)

    async def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        if self._process is None:
            return
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()

    async def _write(self, data: bytes) -> None:
        if self._writer is None or self._writer.is_closing():
            return
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def _how_it_ended(self) -> str:
        if self._process is None:
            return "the worker was never started"
        code = await self._process.wait()
        if code >= 0:
            return f"the worker process ended with exit code {code}"
        try:
            return f"the worker process was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"the worker process was ended by signal {-code}"


def _has_fileno(stream: object) -> bool:
    """Whether a stream (pytest replaces standard error) stands on a file descriptor."""
    try:
        stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return True
