"""The engine loop: plan, execute, commit.

Takes accepted jobs, lets the scheduler choose, executes them through ``actions.py`` and commits how
they ended before anyone can see it. A worker's death sends its jobs back into the queue; a job that
was running at two deaths fails alone. Knows no wire and no tensor. Called by ``run_manager.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import replace
from typing import NamedTuple, TypeVar

from eztinker.engine.actions import Actions, Outcome, Task
from eztinker.engine.active_job import ActiveJob, ticket_of
from eztinker.engine.commits import Commits
from eztinker.engine.executors.base import WorkerDied
from eztinker.engine.held import Held
from eztinker.engine.pace import Pace
from eztinker.engine.recovery import Residents
from eztinker.engine.scheduler import Scheduler
from eztinker.engine.snapshots import Snapshots
from eztinker.engine.streams import DrawnTokens, TokenStream
from eztinker.engine.supervisor import Supervisor
from eztinker.errors import (
    CancelledError,
    EngineCrashError,
    EZTinkerError,
    InvalidRequestError,
    ServerError,
)
from eztinker.store import log as operation_log
from eztinker.store.database import Database
from eztinker.store.jobs import StoredJob, list_unfinished
from eztinker.types.commands import CancelJob
from eztinker.types.error_info import ErrorInfo
from eztinker.types.events import TokensDrawn
from eztinker.types.operations import (
    STATE_KINDS,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_DEATHS = 2
"""Workers a job may take with it before it fails, the last of them with no other job beside it."""


class QueuePlace(NamedTuple):
    """Where a waiting job stands.

    Attributes:
        ahead: jobs of its run before it, the running one included.
        reason: why it waits, in words.
        wait_s: about how long; None when that cannot be told.
    """

    ahead: int
    reason: str
    wait_s: float | None


class EngineLoop:
    """Runs the accepted jobs of one server.

    Attributes:
        active: jobs that have not ended, by id.
        is_leaving: the server is being stopped: nobody waits for an end any more.
    """

    def __init__(
        self,
        database: Database,
        supervisor: Supervisor,
        residents: Residents,
        snapshots: Snapshots,
        actions: Actions,
    ) -> None:
        self._database = database
        self._commits = Commits(database)
        self._supervisor = supervisor
        self._residents = residents
        self._snapshots = snapshots
        self._actions = actions
        self._scheduler = Scheduler()
        self._wake = asyncio.Event()
        self._executions: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[None] | None = None
        supervisor.on_tokens = self._show_tokens
        self.active: dict[str, ActiveJob] = {}
        self.is_leaving = False
        self._held: Held[ActiveJob] = Held()
        self._num_of_owner: Counter[str] = Counter()
        self._paces = {True: Pace(), False: Pace()}

    async def start(self) -> None:
        """Take up the jobs that an earlier life left unfinished, and begin."""
        next_seqs = await self._database.read(operation_log.list_next_seqs)
        for job in await self._database.read(list_unfinished):
            self.submit(job, next_seqs.get(job.run_id or "", 0))
        self._main = asyncio.create_task(self._run(), name="engine-loop")

    def let_go(self) -> None:
        """Let everyone go who waits for a job: the server will answer no more."""
        self.is_leaving = True
        for active in self.active.values():
            active.ended.set()
            if active.stream is not None:
                active.stream.close()

    async def stop(self, *, timeout_s: float) -> None:
        """Start nothing more; give running jobs ``timeout_s`` to end. The others stay in the log."""
        if self._main is not None:
            self._main.cancel()
            await asyncio.gather(self._main, return_exceptions=True)
        if self._executions:
            await asyncio.wait(self._executions, timeout=timeout_s)
        for execution in self._executions:
            execution.cancel()
        await asyncio.gather(*self._executions, return_exceptions=True)

    def submit(self, job: StoredJob, next_seq: int, *, streamed: bool = False) -> ActiveJob:
        """Queue an accepted job, or hold it until the numbers before its own have arrived.

        Args:
            next_seq: lowest number of its run that has not arrived.
            streamed: show its tokens as they are drawn.
        """
        operation = job.operation()
        task = Task(job, operation, streamed=streamed)
        active = ActiveJob(task, ticket_of(job, operation), job.record())
        if streamed:
            active.stream = TokenStream()
        self.active[job.job_id] = active
        self._num_of_owner[job.owner] += 1
        if job.seq is None:
            self._scheduler.add(active.ticket)
        else:
            self._queue(
                self._held.add(
                    active.ticket.queue, job.seq, active, next_seq=next_seq, now_s=time.monotonic()
                )
            )
        self._wake.set()
        return active

    def release(self, run_id: str, next_seq: int) -> None:
        """A number was used up without a job to run: what waited for it may start."""
        self._queue(self._held.release(run_id, next_seq, now_s=time.monotonic()))
        self._wake.set()

    def _queue(self, released: list[ActiveJob]) -> None:
        for active in released:
            self._scheduler.add(active.ticket)

    async def end_held(self, max_hold_s: float) -> None:
        """Fail what has waited longer for a number that does not come; the client can see why."""
        for stale in self._held.stale(before_s=time.monotonic() - max_hold_s):
            for active in stale.jobs:
                seq = active.task.job.seq
                if self._held.take(stale.run_id, seq):
                    await self._end(
                        active, _never_arrived(stale.run_id, stale.missing, seq, max_hold_s)
                    )

    def _show_tokens(self, event: TokensDrawn) -> None:
        for index, job_id in enumerate(event.job_ids):
            active = self.active.get(job_id)
            if active is not None and active.stream is not None:
                active.stream.put(
                    DrawnTokens(
                        event.samples[index],
                        event.tokens[index],
                        event.logprobs[index],
                        event.topk_ids[index],
                        event.topk_logprobs[index],
                    ),
                    event.places[index],
                )

    async def cancel(self, job_id: str) -> None:
        """Stop a job: at once if it waits, between two units of work if it runs."""
        active = self.active.get(job_id)
        if active is None:
            return
        active.cancel_asked = True
        if self._scheduler.remove(job_id) or self._held.take(
            active.ticket.queue, active.task.job.seq
        ):
            await self._end(active, _cancelled())
        elif active.task.handed_over:
            await self._supervisor.tell(CancelJob(job_id))

    def position(self, job_id: str) -> QueuePlace | None:
        """Where a waiting job stands; None once it runs and does not wait for memory."""
        active = self.active.get(job_id)
        if active is not None:
            missing = self._held.missing(active.ticket.queue, active.task.job.seq)
            if missing is not None:
                reason = f"operation {missing}, which comes before it, has not arrived"
                return QueuePlace(0, reason, None)
        found = self._scheduler.position(job_id)
        if active is None:
            return None
        if found is None:
            reason = self._residents.wait_reason(job_id, active.task.job.run_id)
            return None if reason is None else QueuePlace(0, reason, None)
        if not self._supervisor.ready.is_set():
            failure = self._supervisor.start_failure
            trouble = f"the engine does not start ({failure}; the server's log says more)"
            reason = trouble if failure else "the engine is starting"
            return QueuePlace(found.ahead, reason, None)
        wait_s = self._paces[active.ticket.ordered].wait_s(found.num_before)
        return QueuePlace(found.ahead, found.reason, wait_s)

    @property
    def num_waiting(self) -> int:
        """Accepted jobs that have not started."""
        return self._scheduler.num_waiting + len(self._held)

    @property
    def num_running(self) -> int:
        """Jobs the worker has."""
        return self._scheduler.num_running

    def num_of_run(self, run_id: str) -> int:
        """Jobs of a run that wait or run, without those that are held."""
        return self._scheduler.num_in_queue(run_id)

    def num_held_of_run(self, run_id: str) -> int:
        """Jobs of a run that wait for a number which has not arrived."""
        return self._held.num_of_run(run_id)

    def is_awaited(self, run_id: str, seq: int) -> bool:
        """Whether held jobs of the run wait for this number."""
        return self._held.is_awaited(run_id, seq)

    def num_of_owner(self, owner: str) -> int:
        """Jobs of an owner that wait or run."""
        return self._num_of_owner[owner]

    # Plan -----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._supervisor.ready.wait()
            ticket = self._scheduler.next()
            if ticket is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            active = self.active[ticket.job_id]
            active.ticket = ticket
            active.record = replace(active.record, status="running", started_at_s=time.time())
            active.started_s = time.monotonic()
            execution = asyncio.create_task(self._execute(active))
            self._executions.add(execution)
            execution.add_done_callback(self._executions.discard)

    # Execute --------------------------------------------------------------------------------------

    async def _execute(self, active: ActiveJob) -> None:
        try:
            outcome = await self._actions.execute(active.task)
        except WorkerDied:
            await self._after_death(active)
        except EZTinkerError as error:
            await self._end(active, error)
        except Exception:
            log.exception("Job %s failed inside the engine loop.", active.task.job.job_id)
            await self._end(active, ServerError("The engine failed on this job; see its log."))
        else:
            await self._commit(active, outcome)

    async def _after_death(self, active: ActiveJob) -> None:
        """Try again, unless workers died before and the job was alone this time."""
        job_id = active.task.job.job_id
        if not active.task.handed_over:
            self._requeue(active)
            return
        active.task.handed_over = False
        num_deaths = active.task.job.num_deaths + 1
        active.task.job = replace(active.task.job, num_deaths=num_deaths)
        await self._commits.death(job_id)
        if active.cancel_asked:
            await self._end(active, _cancelled())
        elif num_deaths >= MAX_DEATHS and active.ticket.alone:
            message = f"The engine worker died {num_deaths} times while it ran this job."
            await self._end(active, EngineCrashError(f"{message} It will not be tried again."))
        else:
            self._requeue(active)

    def _requeue(self, active: ActiveJob) -> None:
        num_deaths = active.task.job.num_deaths
        active.ticket = replace(active.ticket, num_deaths=num_deaths, alone=False)
        active.record = replace(active.record, status="queued", started_at_s=None)
        self._scheduler.put_back(active.ticket)
        self._wake.set()

    # Commit ---------------------------------------------------------------------------------------

    async def _commit(self, active: ActiveJob, outcome: Outcome) -> None:
        job = active.task.job
        try:
            dropped = await self._commits.completed(active, outcome)
        except EZTinkerError as error:
            # The worker is ahead of the log now: the run is restored before its next use.
            if job.run_id is not None and job.kind in STATE_KINDS | {"create_run"}:
                await self._residents.evict(job.run_id)
            await self._end(active, error)
            return
        await self._snapshots.drop(dropped)
        await self._account(active.task, outcome.compute_s)
        self._settle(active, status="completed", result=outcome.result)

    async def _account(self, task: Task, compute_s: float) -> None:
        """Add up what a replay would cost, and begin a snapshot when one is due."""
        job = task.job
        if job.run_id is None or job.seq is None or job.kind not in STATE_KINDS:
            return
        self._snapshots.note_compute(job.run_id, compute_s)
        if job.kind == "optim_step" and self._snapshots.is_due(job.run_id, now_s=time.monotonic()):
            await self._snapshots.begin(job.run_id, job.seq, epoch=task.epoch)

    async def _end(self, active: ActiveJob, error: EZTinkerError) -> None:
        """Commit a failure or cancellation; the run is as it was before the job."""
        status = "cancelled" if error.code == "cancelled" else "failed"
        info = ErrorInfo.of(error)

        try:
            await self._commits.failed(active, status, info)
        except EZTinkerError as storage_error:
            # It had no effect, so running it again after a restart is safe.
            log.error("End of %s not stored: %s", active.task.job.job_id, storage_error.message)  # noqa: TRY400
        self._settle(active, status=status, error=info)

    def _settle(
        self,
        active: ActiveJob,
        *,
        status: str,
        result: bytes | None = None,
        error: ErrorInfo | None = None,
    ) -> None:
        """Let everyone see the end."""
        stored = replace(
            active.task.job,
            status=status,
            result=result,
            error=error,
            started_at_s=active.record.started_at_s,
            finished_at_s=time.time(),
        )
        active.record = stored.record()
        self._scheduler.finish(stored.job_id)
        if active.started_s is not None:
            pace = self._paces[active.ticket.ordered]
            pace.note_end(started_s=active.started_s, ended_s=time.monotonic())
        del self.active[stored.job_id]
        self._num_of_owner[stored.owner] -= 1
        if not self._num_of_owner[stored.owner]:
            del self._num_of_owner[stored.owner]
        active.ended.set()
        if active.stream is not None:
            active.stream.close()
        self._wake.set()


def _never_arrived(run_id: str, missing: int, seq: int | None, max_hold_s: float) -> EZTinkerError:
    return InvalidRequestError(
        f"Operation {seq} of {run_id} waited {max_hold_s:.0f} s (limits.max_hold_s) for operation {missing}, "
        "which never arrived; operations run in the order of their numbers. Its client has lost it: make a "
        "new training client, from a saved state if there is one.",
        code="operation_missing",
        field="seq_id",
    )


def _cancelled() -> EZTinkerError:
    return CancelledError("The job was cancelled before it took effect.")
