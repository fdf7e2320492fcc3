"""The buffer of jobs whose predecessors have not arrived."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eztinker.engine.held import Held


@given(st.permutations(range(1, 13)), st.sets(st.integers(1, 12), max_size=3))
def test_whatever_the_order_of_arrival_numbers_leave_in_order(order, refused) -> None:
    held: Held[int] = Held()
    arrived: set[int] = set()
    left: list[int] = []
    for seq in order:
        arrived.add(seq)
        next_seq = next(n for n in range(1, 14) if n not in arrived)
        if seq in refused:  # its number is used up without a job
            left += held.release("run", next_seq, now_s=0)
        else:
            left += held.add("run", seq, seq, next_seq=next_seq, now_s=0)
        waiting = sorted(arrived - refused - set(left))
        assert len(held) == held.num_of_run("run") == len(waiting)
        assert all(held.missing("run", n) == next_seq for n in waiting)
        assert held.is_awaited("run", next_seq) == bool(waiting)
    assert left == sorted(set(range(1, 13)) - refused)


def test_news_of_an_earlier_request_may_come_later() -> None:
    held: Held[str] = Held()
    assert held.add("run", 0, "made", next_seq=1, now_s=0) == ["made"]
    assert held.add("run", 1, "a", next_seq=3, now_s=0) == ["a"]  # number 2 was logged before it
    assert held.add("run", 2, "b", next_seq=1, now_s=0) == ["b"]
    assert held.add("run", 0, "another of that name", next_seq=1, now_s=0)
    assert held.add("run", 2, "b", next_seq=1, now_s=0) == []


def test_the_wait_begins_anew_when_a_number_arrives() -> None:
    held: Held[str] = Held()
    held.add("run", 3, "c", next_seq=1, now_s=0)
    held.add("run", 5, "e", next_seq=1, now_s=1)
    assert [(s.missing, s.jobs) for s in held.stale(before_s=0.5)] == [(1, ["c", "e"])]
    assert held.add("run", 1, "a", next_seq=2, now_s=2) == ["a"]
    assert held.stale(before_s=1.5) == []
    assert held.take("run", 3)
    assert not held.take("run", 3)
    assert held.missing("run", 5) == 2
