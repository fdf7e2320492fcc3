"""The queue under any sequence of events: order, bounds, fairness, suspects, and nothing lost."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from eztinker.engine.scheduler import (
    MAX_RUNNING_ORDERED,
    MAX_RUNNING_ROWS,
    MAX_RUNNING_TOKENS,
    MAX_SUSPECTS_ONE_BY_ONE,
    QUANTUM_TOKENS,
    Scheduler,
    Ticket,
)

QUEUES = ("run_a", "run_b", "run_c", "run_d")


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, starts, ends, cancels and kills at random, beside a model of plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler()
        self.numbers = itertools.count()
        self.waiting: dict[tuple[str, bool], list[Ticket]] = {}
        self.running: list[Ticket] = []

    def lane(self, ticket: Ticket) -> list[Ticket]:
        return self.waiting.setdefault((ticket.queue, ticket.ordered), [])

    @property
    def all_waiting(self) -> list[Ticket]:
        return list(itertools.chain.from_iterable(self.waiting.values()))

    @rule(
        queue=st.sampled_from(QUEUES),
        ordered=st.booleans(),
        num_tokens=st.sampled_from([1, 100, QUANTUM_TOKENS, 5 * QUANTUM_TOKENS + 1]),
        num_rows=st.sampled_from(
            [1, MAX_RUNNING_ROWS // 2, MAX_RUNNING_ROWS, MAX_RUNNING_ROWS + 1]
        ),
        may_share=st.booleans(),
    )
    def add(
        self, queue: str, ordered: bool, num_tokens: int, num_rows: int, may_share: bool
    ) -> None:
        name = f"job_{next(self.numbers)}"
        rows = 1 if ordered else num_rows
        ticket = Ticket(name, queue, ordered, num_tokens, rows, may_share=may_share)
        self.scheduler.add(ticket)
        self.lane(ticket).append(ticket)

    @rule()
    def start(self) -> None:
        suspect_runs = any(ticket.suspect for ticket in self.running)
        suspect_waits = any(ticket.suspect for ticket in self.all_waiting)
        num_suspects = sum(ticket.suspect for ticket in (*self.all_waiting, *self.running))
        started = self.scheduler.next()
        if started is None:
            assert suspect_runs or (suspect_waits and self.running) or not self.could_start()
            return
        ticket = replace(started, alone=False)
        assert not suspect_runs or ticket.suspect, "only suspects start beside a suspect"
        assert not suspect_waits or ticket.suspect, "suspects go first"
        if ticket.suspect:
            assert all(other.suspect for other in self.running)
            assert len(self.running) < max(1, num_suspects**0.5), "few at a time"
            assert not self.running or num_suspects > MAX_SUSPECTS_ONE_BY_ONE
            assert not self.running or ticket.num_deaths == 1, "twice unlucky: alone"
            expected = num_suspects <= MAX_SUSPECTS_ONE_BY_ONE or ticket.num_deaths > 1
            assert started.alone == expected
        lane = self.lane(ticket)
        assert ticket in lane
        if ticket.ordered:
            assert lane[0] == ticket, "a run's operations keep their order"
            num_ordered = sum(other.ordered for other in self.running)
            assert num_ordered < MAX_RUNNING_ORDERED or ticket.may_share
        elif not ticket.suspect:
            assert lane[0] == ticket
        lane.remove(ticket)
        self.running.append(ticket)

    def could_start(self) -> bool:
        """Whether the documented bounds leave room for the head of some lane."""
        busy = [ticket.queue for ticket in self.running if ticket.ordered]
        ordered = {
            queue for (queue, is_ordered), lane in self.waiting.items() if is_ordered and lane
        }
        if len(busy) < MAX_RUNNING_ORDERED and ordered - set(busy):
            return True
        free = [
            lane[0] for (_, is_ordered), lane in self.waiting.items() if not is_ordered and lane
        ]
        rows = sum(ticket.num_rows for ticket in self.running if not ticket.ordered)
        return bool(free) and (
            rows == 0 or all(rows + head.num_rows <= MAX_RUNNING_ROWS for head in free)
        )

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.running))
        self.scheduler.finish(ticket.job_id)
        self.running.remove(ticket)

    @precondition(lambda self: self.all_waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.all_waiting))
        assert self.scheduler.remove(ticket.job_id)
        assert not self.scheduler.remove(ticket.job_id)
        self.lane(ticket).remove(ticket)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        """Running jobs come back in whatever order their tasks notice, some later than others."""
        noticed = data.draw(st.lists(st.sampled_from(self.running), min_size=1, unique=True))
        for ticket in noticed:
            back = replace(ticket, num_deaths=ticket.num_deaths + data.draw(st.booleans()))
            self.scheduler.put_back(back)
            self.lane(back).insert(0, back)
            self.running.remove(ticket)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.scheduler.num_waiting == len(self.all_waiting)
        assert self.scheduler.num_running == len(self.running)
        for queue in QUEUES:
            expected = sum(ticket.queue == queue for ticket in (*self.all_waiting, *self.running))
            assert self.scheduler.num_in_queue(queue) == expected

    @invariant()
    def bounds_hold(self) -> None:
        ordered = [ticket for ticket in self.running if ticket.ordered]
        queues = {ticket.queue for ticket in ordered}
        assert len(ordered) == len(queues), "one operation of a run at a time"
        num_tokens = sum(ticket.num_tokens for ticket in ordered)
        assert len(ordered) <= MAX_RUNNING_ORDERED or num_tokens <= MAX_RUNNING_TOKENS
        rows = [ticket.num_rows for ticket in self.running if not ticket.ordered]
        assert sum(rows) <= MAX_RUNNING_ROWS or len(rows) == 1
        if any(ticket.suspect for ticket in self.running):
            assert all(ticket.suspect for ticket in self.running)
            assert len(self.running) == 1 or all(t.num_deaths == 1 for t in self.running)

    @invariant()
    def positions_are_right(self) -> None:
        for lane in self.waiting.values():
            for ahead, ticket in enumerate(lane):
                position = self.scheduler.position(ticket.job_id)
                assert position is not None
                busy = any(other.ordered and other.queue == ticket.queue for other in self.running)
                assert position.ahead == ahead + (ticket.ordered and busy)
                assert position.reason
                assert position.num_before >= max(1, position.ahead)
        for ticket in self.running:
            assert self.scheduler.position(ticket.job_id) is None

    def teardown(self) -> None:
        """Whatever happened, everything that waits can still be run to its end."""
        for _ in range(2 * len(self.all_waiting) + 2 * len(self.running) + 1):
            self.start()
            if self.running:
                ticket = self.running.pop()
                self.scheduler.finish(ticket.job_id)
        assert self.scheduler.num_waiting == self.scheduler.num_running == 0


SchedulerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestScheduler = SchedulerMachine.TestCase


def drain(scheduler: Scheduler, *, slots: int = MAX_RUNNING_ORDERED) -> list[Ticket]:
    """Run everything: start while there is room, end the oldest; returns the order of starts."""
    started: list[Ticket] = []
    running: list[Ticket] = []
    while True:
        while len(running) < slots and (ticket := scheduler.next()) is not None:
            started.append(ticket)
            running.append(ticket)
        if not running:
            return started
        scheduler.finish(running.pop(0).job_id)


@settings(max_examples=60)
@given(
    flood_tokens=st.lists(st.integers(1, 3 * QUANTUM_TOKENS), min_size=3, max_size=5),
    victim_tokens=st.integers(1, 4 * QUANTUM_TOKENS),
    num_served_before=st.integers(0, 6),
    slots=st.integers(1, MAX_RUNNING_ORDERED),
)
def test_a_flood_delays_a_newcomer_by_a_bounded_number_of_tokens(
    flood_tokens: list[int], victim_tokens: int, num_served_before: int, slots: int
) -> None:
    """While a job of c tokens waits, another run is served at most once a round, of which there are
    ceil(c / quantum) + 1, with a quantum and what it had saved (less than its own next job)."""
    scheduler = Scheduler()
    num_rounds = -(-victim_tokens // QUANTUM_TOKENS) + 1
    for index, num_tokens in enumerate(flood_tokens):
        num_jobs = num_served_before + 2 + (num_rounds + 1) * (QUANTUM_TOKENS // num_tokens + 2)
        for number in range(min(num_jobs, 400)):
            scheduler.add(Ticket(f"{index}:{number}", f"flood_{index}", True, num_tokens))
    for _ in range(num_served_before):
        ticket = scheduler.next()
        assert ticket is not None
        scheduler.finish(ticket.job_id)
    scheduler.add(Ticket("victim", "victim", True, victim_tokens))
    started = drain(scheduler, slots=slots)
    before = started[: [ticket.job_id for ticket in started].index("victim")]
    for index, num_tokens in enumerate(flood_tokens):
        served = sum(ticket.num_tokens for ticket in before if ticket.queue == f"flood_{index}")
        assert served <= num_rounds * QUANTUM_TOKENS + 2 * num_tokens


@pytest.mark.parametrize(("long_tokens", "short_tokens"), [(8000, 100), (2048, 1), (500, 499)])
def test_backlogged_runs_get_equal_shares_of_tokens(long_tokens: int, short_tokens: int) -> None:
    scheduler = Scheduler()
    sizes = {"long_1": long_tokens, "long_2": long_tokens, "short": short_tokens}
    num_tokens_each = 8 * (QUANTUM_TOKENS + long_tokens)
    for queue, num_tokens in sizes.items():
        for number in range(num_tokens_each // num_tokens):
            scheduler.add(Ticket(f"{queue}:{number}", queue, True, num_tokens))
    shares = dict.fromkeys(sizes, 0)
    while sum(shares.values()) < 1.5 * num_tokens_each:
        ticket = scheduler.next()
        assert ticket is not None
        shares[ticket.queue] += ticket.num_tokens
        scheduler.finish(ticket.job_id)
    assert max(shares.values()) - min(shares.values()) <= QUANTUM_TOKENS + long_tokens


def test_an_idle_run_saves_nothing_up() -> None:
    """What it did not use of its turns is gone when it comes back, as if it had never been here."""
    orders = []
    for num_before in (0, 1):
        scheduler = Scheduler()
        for _ in range(num_before):
            scheduler.add(Ticket("before", "run_a", True, 1))
            assert scheduler.next() is not None
            scheduler.finish("before")
        for number in range(10):
            for queue in ("run_a", "run_b"):
                scheduler.add(Ticket(f"{queue}{number}", queue, True, QUANTUM_TOKENS // 2))
        orders.append([ticket.job_id for ticket in drain(scheduler, slots=1)])
    assert orders[0] == orders[1]
    assert [name[:5] for name in orders[0][:6]] == ["run_a", "run_b"] * 3


def test_a_long_queue_is_worked_off_in_linear_time() -> None:
    scheduler = Scheduler()
    for number in range(20_000):
        scheduler.add(Ticket(f"job_{number}", f"run_{number % 2}", True))
    started_s = time.process_time()
    assert len(drain(scheduler)) == 20_000
    assert time.process_time() - started_s < 2.0


def test_a_step_of_a_short_run_overtakes_the_queue_of_a_long_one() -> None:
    scheduler = Scheduler()
    for number in range(100):
        scheduler.add(Ticket(f"long_{number}", "run_a", True, QUANTUM_TOKENS))
    scheduler.add(Ticket("step", "run_b", True, 1))
    assert "step" in [ticket.job_id for ticket in drain(scheduler)[:3]]


def test_what_may_share_is_handed_over_together_within_a_bound() -> None:
    scheduler = Scheduler()
    for number in range(10):
        size = MAX_RUNNING_TOKENS // 8
        scheduler.add(Ticket(f"job_{number}", f"run_{number}", True, size, may_share=True))
    started = list(iter(scheduler.next, None))
    assert len(started) == 8
    scheduler.finish("job_3")
    assert scheduler.next() is not None
    assert scheduler.next() is None


def test_a_job_that_may_not_share_is_not_passed_by_those_that_may() -> None:
    scheduler = Scheduler()
    for number in range(3):
        scheduler.add(Ticket(f"short_{number}", f"run_{number}", True, 1, may_share=True))
    scheduler.add(Ticket("apart", "run_x", True, 1))
    for number in range(3, 20):
        scheduler.add(Ticket(f"short_{number}", f"run_{number}", True, 1, may_share=True))
    order = [ticket.job_id for ticket in drain(scheduler, slots=1000)]
    assert order.index("apart") <= 4


def test_a_wide_sample_is_not_starved_by_narrow_ones() -> None:
    scheduler = Scheduler()
    scheduler.add(Ticket("first", "a", ordered=False, num_rows=10))
    scheduler.add(Ticket("wide", "b", ordered=False, num_rows=MAX_RUNNING_ROWS))
    for number in range(20):
        scheduler.add(Ticket(f"narrow_{number}", "a", ordered=False))
    order = [ticket.job_id for ticket in drain(scheduler, slots=1000)]
    assert order.index("wide") <= 2
    assert len(order) == 22


def test_samples_of_different_weights_take_turns() -> None:
    scheduler = Scheduler()
    for number in range(3):
        for queue in ("a", "b"):
            scheduler.add(Ticket(f"{queue}{number}", queue, ordered=False))
    started = []
    while (ticket := scheduler.next()) is not None:
        started.append(ticket.job_id)
    assert started == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_many_runs_of_one_owner_get_no_more_than_one_run_of_another() -> None:
    scheduler = Scheduler()
    for number in range(400):
        scheduler.add(Ticket(f"f{number}", f"flood_{number % 40}", True, 300, owner="flood"))
    for number in range(40):
        scheduler.add(Ticket(f"v{number}", "victim", True, 300, owner="victim"))
    first = drain(scheduler, slots=1)[:60]
    by_owner = [sum(ticket.owner == owner for ticket in first) for owner in ("flood", "victim")]
    assert abs(by_owner[0] - by_owner[1]) <= 2 * QUANTUM_TOKENS // 300 + 1


def test_samples_take_turns_by_owner_and_then_by_weights() -> None:
    scheduler = Scheduler()
    for number in range(3):
        for queue in ("a", "b", "c"):
            scheduler.add(Ticket(f"{queue}{number}", queue, False, owner="flood"))
    for number in range(3):
        scheduler.add(Ticket(f"v{number}", "v", False, owner="victim"))
    started = []
    while (ticket := scheduler.next()) is not None:
        started.append(ticket.job_id)
    assert started[:6] == ["a0", "v0", "b0", "v1", "c0", "v2"]


def test_the_estimate_counts_what_others_do_meanwhile() -> None:
    scheduler = Scheduler()
    for queue, number in (("mine", 3), ("long", 10), ("short", 1)):
        for index in range(number):
            scheduler.add(Ticket(f"{queue}{index}", queue, True))
    place = scheduler.position("mine2")
    assert place is not None
    assert place.ahead == 2
    assert place.num_before == 2 + 3 + 1


def test_every_wait_has_a_reason_in_words() -> None:
    scheduler = Scheduler()
    scheduler.add(Ticket("first", "run_a", True))
    scheduler.add(Ticket("second", "run_a", True))
    scheduler.add(Ticket("third", "run_a", True))
    scheduler.add(Ticket("full", "base", False, num_rows=MAX_RUNNING_ROWS))
    scheduler.add(Ticket("more", "base", False))
    while scheduler.next() is not None:
        pass
    second, third = scheduler.position("second"), scheduler.position("third")
    assert second is not None
    assert third is not None
    assert second[:2] == (1, "the operation before it of run_a is running")
    assert third[:2] == (2, "1 earlier job of run_a must finish first")
    position = scheduler.position("more")
    assert position is not None
    assert "256 sequences" in position[1]
    scheduler.add(Ticket("poison", "run_b", True, num_deaths=1))
    position = scheduler.position("more")
    assert position is not None
    assert "apart" in position[1]
    assert scheduler.position("unknown") is None
