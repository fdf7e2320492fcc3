"""Which job starts next: a pure queue, without clock, tensors or I/O.

Operations of a run start in their order, one at a time; between runs deficit round-robin by tokens
(Shreedhar & Varghese 1995), so that one run's long passes do not starve another's short ones. The runs
of one owner share that owner's part, so that many runs get no more than one. Few ordered
jobs are running at a time, but more of those that several runs can have computed together.
Sampling is outside that order and bounded by rows; its requests take turns by whose weights they use.
A job that was running when a worker died is a suspect: a few run one by one, many in small groups
first, and a group that dies with its worker one by one. Called by ``loop.py``.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, replace
from typing import NamedTuple

QUANTUM_TOKENS = 2048
"""What an owner's runs may spend in each turn of the round."""

MAX_RUNNING_ORDERED = 2
"""Ordered jobs handed to the worker at a time: one computes, one waits in its inbox."""

MAX_RUNNING_TOKENS = 8192
"""Beyond that number, jobs that may share go on being handed over up to so many tokens in all: only what the
worker has can go through the model together."""

MAX_RUNNING_ROWS = 256
"""Sequences being sampled at a time; the worker bounds their memory itself."""

MAX_REMEMBERED_OWNERS = 1024

MAX_SUSPECTS_ONE_BY_ONE = 8
"""More suspects than this are tried in groups of the square root of their number."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the scheduler needs to know of a job.

    Attributes:
        queue: the run, or whose weights a sample uses; jobs of one queue keep their order.
        ordered: takes part in the run's order.
        num_tokens: what it costs.
        num_rows: sequences it samples at once (1 for ordered jobs).
        num_deaths: workers that died while it was running.
        alone: started by itself, so that the next death is its own.
        may_share: it may be computed together with jobs of other runs.
        owner: whose it is; owners get equal parts.
    """

    job_id: str
    queue: str
    ordered: bool
    num_tokens: int = 1
    num_rows: int = 1
    num_deaths: int = 0
    alone: bool = False
    may_share: bool = False
    owner: str = ""

    @property
    def suspect(self) -> bool:
        """Whether it may be what a worker died of."""
        return self.num_deaths > 0


class Place(NamedTuple):
    """Where a waiting job stands.

    Attributes:
        ahead: jobs of its queue before it, the running one included.
        reason: why it waits, in words.
        num_before: about how many jobs of all queues end before it starts.
    """

    ahead: int
    reason: str
    num_before: int


class Scheduler:
    """Waiting and running jobs of one worker."""

    def __init__(self) -> None:
        self._ordered: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._free: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._deficit: dict[str, int] = {}
        # Ordered lanes of each owner; and when each owner's samples last had their turn.
        self._num_lanes: Counter[str] = Counter()
        self._turns: dict[str, int] = {}
        self._waiting: dict[str, Ticket] = {}
        self._suspects: dict[str, Ticket] = {}
        self._running: dict[str, Ticket] = {}

    @property
    def num_waiting(self) -> int:
        """Jobs that have not started."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Jobs that have started and not ended."""
        return len(self._running)

    def num_in_queue(self, queue: str) -> int:
        """Jobs of one run that wait or run."""
        waiting = len(self._ordered.get(queue, ())) + len(self._free.get(queue, ()))
        return waiting + sum(ticket.queue == queue for ticket in self._running.values())

    def add(self, ticket: Ticket) -> None:
        """Queue a job behind those of its queue."""
        self._note_waiting(ticket)
        self._lane(ticket).append(ticket)

    def put_back(self, ticket: Ticket) -> None:
        """Queue a job whose worker died again, in front and as a suspect."""
        self._running.pop(ticket.job_id, None)
        self._note_waiting(ticket)
        self._lane(ticket).appendleft(ticket)

    def _lane(self, ticket: Ticket) -> deque[Ticket]:
        lanes = self._ordered if ticket.ordered else self._free
        if ticket.queue not in lanes:
            lanes[ticket.queue] = deque()
            if ticket.ordered:
                self._num_lanes[ticket.owner] += 1
        return lanes[ticket.queue]

    def remove(self, job_id: str) -> bool:
        """Forget a waiting job; False if it is not waiting."""
        ticket = self._waiting.pop(job_id, None)
        if ticket is None:
            return False
        self._suspects.pop(job_id, None)
        lanes = self._ordered if ticket.ordered else self._free
        lanes[ticket.queue].remove(ticket)
        self._drop_empty(lanes, ticket)
        return True

    def finish(self, job_id: str) -> None:
        """A running job has ended."""
        self._running.pop(job_id, None)

    def next(self) -> Ticket | None:
        """Start a job that may start now, or return None."""
        if self._suspects or any(ticket.suspect for ticket in self._running.values()):
            ticket = self._next_suspect()
        else:
            ticket = self._next_ordered() or self._next_free()
        return self._start(ticket) if ticket else None

    def position(self, job_id: str) -> Place | None:
        """Where a waiting job stands; None if it is not waiting."""
        ticket = self._waiting.get(job_id)
        if ticket is None:
            return None
        lanes = self._ordered if ticket.ordered else self._free
        # By identity: comparing tickets field by field took most of an answer behind a long queue.
        lane = enumerate(lanes[ticket.queue])
        earlier = next(number for number, other in lane if other is ticket)
        is_behind = ticket.ordered and self._is_busy(ticket.queue)
        # The other queues have their turns meanwhile; of theirs, about as many go before it.
        others = sum(
            min(len(lane), earlier + 1) for queue, lane in lanes.items() if queue != ticket.queue
        )
        running = sum(other.ordered for other in self._running.values()) if ticket.ordered else 0
        return Place(
            earlier + is_behind, self._reason(ticket, earlier), max(1, earlier + others + running)
        )

    def _reason(self, ticket: Ticket, ahead: int) -> str:
        if ahead:
            return f"{ahead} earlier job{'s' * (ahead > 1)} of {ticket.queue} must finish first"
        if self._suspects or any(other.suspect for other in self._running.values()):
            return "jobs that were running when the worker died are tried again first, apart"
        if ticket.ordered and self._is_busy(ticket.queue):
            return f"the operation before it of {ticket.queue} is running"
        if not ticket.ordered and self._running_rows() >= MAX_RUNNING_ROWS:
            return f"{self._running_rows()} sequences are being sampled; the engine is full"
        return "the engine is busy with other jobs"

    def _next_suspect(self) -> Ticket | None:
        """The next suspect, if it may run beside those that do."""
        running = list(self._running.values())
        if not self._suspects or not all(ticket.suspect for ticket in running):
            return None
        head = next(iter(self._suspects.values()))
        group_size = self._group_size()
        alone = group_size == 1 or head.num_deaths > 1
        if not running:
            return replace(head, alone=alone)
        if alone or len(running) >= group_size or any(ticket.alone for ticket in running):
            return None
        return head if self._fits_beside(head, running) else None

    def _group_size(self) -> int:
        num_suspects = len(self._suspects) + sum(t.suspect for t in self._running.values())
        return 1 if num_suspects <= MAX_SUSPECTS_ONE_BY_ONE else math.isqrt(num_suspects)

    def _fits_beside(self, ticket: Ticket, running: list[Ticket]) -> bool:
        if ticket.ordered:
            num_ordered = sum(other.ordered for other in running)
            return num_ordered < MAX_RUNNING_ORDERED and not self._is_busy(ticket.queue)
        rows = self._running_rows()
        return rows == 0 or rows + ticket.num_rows <= MAX_RUNNING_ROWS

    def _next_ordered(self) -> Ticket | None:
        running = [ticket for ticket in self._running.values() if ticket.ordered]
        room = MAX_RUNNING_TOKENS - sum(ticket.num_tokens for ticket in running)
        if len(running) >= MAX_RUNNING_ORDERED and room <= 0:
            return None
        busy = {ticket.queue for ticket in running}
        ready = [queue for queue in self._ordered if queue not in busy]
        while ready:
            for queue in ready:
                head = self._ordered[queue][0]
                if self._deficit.get(queue, 0) >= head.num_tokens:
                    has_room = head.may_share and head.num_tokens <= room
                    if len(running) >= MAX_RUNNING_ORDERED and not has_room:
                        return None  # it is this one's turn: nobody slips past it
                    self._deficit[queue] -= head.num_tokens
                    return head
                self._deficit[queue] = self._deficit.get(queue, 0) + self._share(head.owner)
                self._ordered.move_to_end(queue)
            self._skip_rounds(ready)
        return None

    def _share(self, owner: str) -> int:
        """What one run of an owner may spend in each turn."""
        return max(1, QUANTUM_TOKENS // self._num_lanes[owner])

    def _skip_rounds(self, ready: list[str]) -> None:
        """Hand out at once what the rounds would bring in which no head can be paid for yet."""
        heads = [self._ordered[queue][0] for queue in ready]
        num_rounds = min(
            (head.num_tokens - self._deficit[head.queue] - 1) // self._share(head.owner)
            for head in heads
        )
        if num_rounds > 0:
            for head in heads:
                self._deficit[head.queue] += num_rounds * self._share(head.owner)

    def _next_free(self) -> Ticket | None:
        if not self._free:
            return None
        queue = min(self._free, key=lambda name: self._turns.get(self._free[name][0].owner, 0))
        head = self._free[queue][0]
        # A request wider than the bound runs alone rather than never.
        rows = self._running_rows()
        if rows and rows + head.num_rows > MAX_RUNNING_ROWS:
            return None
        self._free.move_to_end(queue)
        self._note_turn(head.owner)
        return head

    def _note_turn(self, owner: str) -> None:
        if len(self._turns) > MAX_REMEMBERED_OWNERS:
            self._turns.clear()
        self._turns[owner] = 1 + max(self._turns.values(), default=0)

    def _start(self, ticket: Ticket) -> Ticket:
        del self._waiting[ticket.job_id]
        self._suspects.pop(ticket.job_id, None)
        lanes = self._ordered if ticket.ordered else self._free
        lanes[ticket.queue].remove(replace(ticket, alone=False))
        self._drop_empty(lanes, ticket)
        self._running[ticket.job_id] = ticket
        return ticket

    def _note_waiting(self, ticket: Ticket) -> None:
        self._waiting[ticket.job_id] = ticket
        if ticket.suspect:
            self._suspects[ticket.job_id] = ticket

    def _drop_empty(self, lanes: OrderedDict[str, deque[Ticket]], ticket: Ticket) -> None:
        if not lanes[ticket.queue]:
            del lanes[ticket.queue]
            if lanes is self._ordered:
                # An idle run saves nothing up.
                self._deficit.pop(ticket.queue, None)
                self._num_lanes -= Counter([ticket.owner])

    def _is_busy(self, queue: str) -> bool:
        return any(ticket.ordered and ticket.queue == queue for ticket in self._running.values())

    def _running_rows(self) -> int:
        return sum(ticket.num_rows for ticket in self._running.values() if not ticket.ordered)
