"""A job in flight: what the ``submit_*`` methods return, so that a loop can send before it waits.

Holds the job's id and how to read its result; the server holds everything else, so a handle may be
dropped or made again at any time. Made by the two clients only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from eztinker.client import flows
from eztinker.client.answers import Json
from eztinker.client.flows import Context, Flow
from eztinker.client.requests import jobs
from eztinker.client.transport import AsyncTransport, Transport

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Parts(Generic[T]):
    """What both handles know."""

    context: Context
    job_id: str
    parse: Callable[[Json], T]

    def result(self, timeout: float | None) -> Flow[T]:
        return flows.wait_for_job(self.context, self.job_id, self.parse, timeout)

    def status(self) -> Flow[str]:
        job = yield from flows.ask(self.context, jobs.get_job(self.job_id))
        return job["status"]

    def cancel(self) -> Flow[Json]:
        return flows.ask(self.context, jobs.cancel_job(self.job_id))


class JobHandle(Generic[T]):
    """A job of ``EZTinkerClient``; safe to use from several threads."""

    def __init__(
        self, context: Context, transport: Transport, job_id: str, parse: Callable[[Json], T]
    ) -> None:
        self._parts = _Parts(context, job_id, parse)
        self._transport = transport

    def __repr__(self) -> str:
        return f"JobHandle({self.job_id!r})"

    @property
    def job_id(self) -> str:
        """``job_`` and eight hex digits; ``client.wait_for_job`` takes it too."""
        return self._parts.job_id

    def result(self, timeout: float | None = None) -> T:
        """Wait for the job's end and return what the method without ``submit_`` returns.

        Args:
            timeout: seconds; None takes the client's.

        Raises:
            JobFailedError: the job failed or was cancelled.
            TimeoutError: it has not ended yet. It goes on, and ``result`` may be called again.
        """
        return self._transport.run(self._parts.result(timeout))

    def status(self) -> str:
        """``queued``, ``running``, ``completed``, ``failed`` or ``cancelled``."""
        return self._transport.run(self._parts.status())

    def cancel(self) -> Json:
        """Ask the server to stop the job; the answer is the job as it is then."""
        return self._transport.run(self._parts.cancel())


class AsyncJobHandle(Generic[T]):
    """A job of ``AsyncEZTinkerClient``."""

    def __init__(
        self, context: Context, transport: AsyncTransport, job_id: str, parse: Callable[[Json], T]
    ) -> None:
        self._parts = _Parts(context, job_id, parse)
        self._transport = transport

    def __repr__(self) -> str:
        return f"AsyncJobHandle({self.job_id!r})"

    @property
    def job_id(self) -> str:
        """As ``JobHandle.job_id``."""
        return self._parts.job_id

    async def result(self, timeout: float | None = None) -> T:  # noqa: ASYNC109 - the sync client's word
        """As ``JobHandle.result``."""
        return await self._transport.run(self._parts.result(timeout))

    async def status(self) -> str:
        """As ``JobHandle.status``."""
        return await self._transport.run(self._parts.status())

    async def cancel(self) -> Json:
        """As ``JobHandle.cancel``."""
        return await self._transport.run(self._parts.cancel())
