"""Ends of sampling jobs as streams of events, so that one poll tells of many samples.

A stream belongs to one client of a sampler. It begins with the first poll: what the database knows by
then comes first, later ends follow as they happen. Events are numbered by the clock: after a restart
all numbers are higher than before it, and a client that goes on with its old cursor learns everything
again. Knows no wire and no result. Called by the Tinker wire's ``retrieve_futures`` and ``asample``.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass, field

from eztinker.engine.active_job import ActiveJob
from eztinker.engine.run_manager import RunManager
from eztinker.service.submissions import idempotency_scope
from eztinker.service.view import View
from eztinker.store import jobs as job_rows
from eztinker.store.database import Database
from eztinker.types.records import FINAL_STATUSES, JobRecord, SamplerRecord

CLONE_STRIDE = 10**9
"""Numbers of a sampler's clients: those of its clone k begin at k times this."""
MAX_IDLE_STREAMS = 256
"""Streams kept although nobody polls them; one that was dropped begins again with its next poll."""
GATHER_S = 0.02
"""How long a poll waits for more when many jobs are under way: thousands of ends, a few answers."""
FEW_JOBS = 8


@dataclass(frozen=True, slots=True)
class Completion:
    """A sampling job that has ended; ``number`` orders it within its stream."""

    number: int
    job_id: str
    ok: bool


@dataclass(slots=True)
class _Stream:
    last_number: int = field(default_factory=lambda: time.time_ns() // 1000)
    events: deque[Completion] = field(default_factory=deque)
    watched: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    num_polls: int = 0

    def add(self, job_id: str, *, ok: bool) -> None:
        self.last_number += 1
        self.events.append(Completion(self.last_number, job_id, ok))
        self.changed.set()

    def forget(self, *, up_to: int, job_ids: Collection[str]) -> None:
        kept = (e for e in self.events if e.number > up_to and e.job_id not in job_ids)
        self.events = deque(kept)


class Completions(View):
    """Streams of a server."""

    def __init__(self, database: Database, engine: RunManager) -> None:
        self._database = database
        self._engine = engine
        self._streams: OrderedDict[tuple[str, int], _Stream] = OrderedDict()

    async def expect(self, sampler: SamplerRecord, seq_id: int, job: JobRecord) -> None:
        """Tell a client's stream, if it has one, of a job that was just accepted or found."""
        stream = self._streams.get((sampler.sampler_id, seq_id // CLONE_STRIDE))
        if stream is not None:
            await self._follow(stream, job.job_id, job.status)

    async def wait(
        self,
        sampler: SamplerRecord,
        clone: int,
        *,
        after: int,
        known: Collection[str],
        timeout_s: float,
    ) -> tuple[list[Completion], int]:
        """What has ended since ``after``, as soon as there is something, and the number to go on from.

        Args:
            sampler: whose jobs.
            clone: which of its clients.
            after: the number of the client's last answer; what came before is forgotten.
            known: jobs whose results the client has.
            timeout_s: how long to wait; 0 answers at once.
        """
        stream = await self._stream(sampler, clone)
        # A number of the future was given out by a server with another clock: tell everything.
        stream.forget(up_to=after if after <= stream.last_number else 0, job_ids=known)
        stream.num_polls += 1
        try:
            if not stream.events and timeout_s > 0 and not self._engine.is_leaving:
                await self._next(stream, timeout_s)
        finally:
            stream.num_polls -= 1
        return list(stream.events), stream.last_number

    def let_go(self) -> None:
        """Let everyone go who waits: the server is being stopped."""
        for stream in self._streams.values():
            stream.changed.set()

    async def _next(self, stream: _Stream, timeout_s: float) -> None:
        stream.changed.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await stream.changed.wait()
        except TimeoutError:
            return
        if len(stream.watched) > FEW_JOBS:
            await asyncio.sleep(GATHER_S)

    async def _stream(self, sampler: SamplerRecord, clone: int) -> _Stream:
        key = (sampler.sampler_id, clone)
        stream = self._streams.get(key)
        if stream is None:
            # In place before the database is asked, so that no job falls between.
            stream = self._streams[key] = _Stream()
            owners = {sampler.owner, self.principal.owner}
            scopes = {idempotency_scope(sampler.run_id, owner) for owner in owners}
            for job_id, seq_id, status in await self._database.read(
                lambda connection: job_rows.list_of_sampler(connection, scopes, sampler.sampler_id)
            ):
                if seq_id // CLONE_STRIDE == clone:
                    await self._follow(stream, job_id, status)
        self._streams.move_to_end(key)
        self._drop_idle()
        return stream

    async def _follow(self, stream: _Stream, job_id: str, status: str) -> None:
        """Tell of a job that has ended, watch one that has not; ``status`` may be an old one."""
        if job_id in stream.watched:
            return
        active = self._engine.active(job_id)
        if active is not None:
            stream.watched[job_id] = asyncio.create_task(self._watch(stream, active))
            return
        if status not in FINAL_STATUSES:
            # It ended since then. An end is committed before it is seen, so the database knows it.
            stored = await self._database.read(lambda conn: job_rows.get_job(conn, job_id))
            status = stored.status
        stream.add(job_id, ok=status == "completed")

    async def _watch(self, stream: _Stream, active: ActiveJob) -> None:
        await active.ended.wait()
        del stream.watched[active.record.job_id]
        if active.record.status not in FINAL_STATUSES:  # nobody may wait any longer
            return
        stream.add(active.record.job_id, ok=active.record.status == "completed")

    def _drop_idle(self) -> None:
        idle = [k for k, s in self._streams.items() if not s.num_polls and not s.watched]
        for key in idle[: max(0, len(idle) - MAX_IDLE_STREAMS)]:
            del self._streams[key]
