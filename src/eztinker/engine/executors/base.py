"""Where an engine worker lives, seen from the server process: start, send, receive, kill.

An executor moves messages and knows when its worker has died. It does not decide anything: the
supervisor starts and replaces it, the loop fills it. Implementations: ``subprocess.py`` (default),
``inline.py`` (tests).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from eztinker.types.messages import Command, Event


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told at birth.

    Attributes:
        epoch: number of this worker's life; every event carries it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        num_threads: torch threads; 0 takes the number of physical cores.
        plugins: modules to import at start.
        micro_batch_tokens: bound on a micro-batch when the worker plans itself (evaluation).
        kv_cache_tokens: bound on cached tokens; 0 derives it from free memory.
    """

    epoch: int
    device: str = "auto"
    dtype: str = "auto"
    num_threads: int = 0
    plugins: tuple[str, ...] = ()
    micro_batch_tokens: int = 4096
    kv_cache_tokens: int = 0


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
