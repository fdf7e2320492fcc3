"""An accepted job while it waits and runs, and what the scheduler needs to know of it.

Decides nothing and stores nothing. Kept by ``loop.py``, looked at by the service.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from eztinker.engine.actions import Task
from eztinker.engine.scheduler import Ticket
from eztinker.engine.streams import TokenStream
from eztinker.store.jobs import StoredJob
from eztinker.types.operations import Evaluate, Operation, OptimStep, Sample, TrainingPass
from eztinker.types.principal import LOCAL_OWNER
from eztinker.types.records import JobRecord


@dataclass(slots=True, eq=False)
class ActiveJob:
    """An accepted job until its end is committed.

    Attributes:
        ended: set when ``record`` is final, or when nobody may wait any longer (``EngineLoop.is_leaving``).
        cancel_asked: someone wants it to stop.
        started_s: monotonic seconds at which it was last given to the worker.
        stream: its tokens as they are drawn; None unless it is streamed.
    """

    task: Task
    ticket: Ticket
    record: JobRecord
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    cancel_asked: bool = False
    started_s: float | None = None
    stream: TokenStream | None = None


def ticket_of(job: StoredJob, operation: Operation) -> Ticket:
    """What the scheduler plans by: queue, order, size."""
    num_rows = 1
    num_tokens = 1
    if isinstance(operation, TrainingPass):
        num_tokens = operation.num_tokens
    elif isinstance(operation, Sample):
        num_rows = operation.num_samples
    elif isinstance(operation, Evaluate):
        num_tokens = sum(
            len(item.prompt_tokens) + len(item.response_tokens) for item in operation.items
        )
    queue = job.run_id
    if queue is None:
        assert isinstance(operation, Sample)
        # Samples of a bare model have no run to take turns by, so they take turns by who asks.
        queue = f"base model {operation.weights.base_model}"
        queue += f" for {job.owner}" if job.owner != LOCAL_OWNER else ""
    return Ticket(
        job_id=job.job_id,
        queue=queue,
        ordered=job.seq is not None,
        num_tokens=max(1, num_tokens),
        num_rows=num_rows,
        num_deaths=job.num_deaths,
        owner=job.owner,
        may_share=isinstance(operation, (TrainingPass, OptimStep)),
    )
