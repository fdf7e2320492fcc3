"""Where an engine worker lives, seen from the server process: start, send, receive, kill.

An executor moves messages and knows when its worker has died. It does not decide anything: the
supervisor starts and replaces it, the loop fills it. Implementations: ``subprocess.py`` (default),
``inline.py`` (tests).
"""

from __future__ import annotations

from typing import Protocol

from eztinker.types.commands import Command, WorkerSettings
from eztinker.types.events import Event


class WorkerDied(Exception):  # noqa: N818 - an occurrence, not a mistake
    """Raised by ``receive`` when the worker is gone; says how it ended."""


class Executor(Protocol):
    """One engine worker's life."""

    async def start(self, settings: WorkerSettings) -> None:
        """Begin a life; returns before the worker is ready (``WorkerReady`` comes by ``receive``)."""
        ...

    async def send(self, command: Command) -> None:
        """Hand a command over. A dead worker swallows it; ``receive`` tells of the death."""
        ...

    async def receive(self) -> Event:
        """The next event, in order.

        Raises:
            WorkerDied: when no more will come.
        """
        ...

    async def kill(self) -> None:
        """End the life at once; idempotent; returns when the worker is gone."""
        ...
