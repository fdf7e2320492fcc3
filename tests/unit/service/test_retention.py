"""Which checkpoints go: rules, budgets, and what is never chosen."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from eztinker.service.retention import Policy, excess_bytes, plan
from eztinker.types.records import CheckpointRecord
from eztinker.types.training import LoRAConfig


def held(*names: str, run_id: str = "run", size: int = 10) -> list[CheckpointRecord]:
    """Checkpoints, oldest first."""
    return [
        CheckpointRecord(run_id, name, "nano", LoRAConfig(), float(i), size, False, i, "")
        for i, name in enumerate(names)
    ]


def gone(*args, **kwargs) -> list[str]:
    return [entry.checkpoint.name for entry in plan(*args, **kwargs)]


def test_without_rules_everything_stays() -> None:
    assert Policy().is_empty
    assert gone(held("a", "b"), Policy()) == []


def test_the_newest_and_the_best_stay() -> None:
    found = held("a", "b", "c", "d", "e")
    assert gone(found, Policy(keep_last=2)) == ["a", "b", "c"]
    found[1] = replace(found[1], score=0.9)
    found[2] = replace(found[2], score=0.5)
    assert gone(found, Policy(keep_last=2, keep_best=1)) == ["a", "c"]
    assert gone(found, Policy(keep_best=1)) == ["c"]
    found[0] = replace(found[0], is_pinned=True)
    assert gone(found, Policy(keep_last=1)) == ["b", "c", "d"]
    assert gone(found, Policy(keep_last=1), in_use={("run", "c")}) == ["b", "d"]


def test_of_equal_scores_the_newer_stays() -> None:
    found = [replace(entry, score=1.0) for entry in held("a", "b", "c")]
    assert gone(found, Policy(keep_best=1)) == ["a", "b"]


def test_budgets_count_snapshots_and_take_the_oldest() -> None:
    found = held("a", "b", "c") + held("x", "y", run_id="other")
    assert gone(found, Policy(max_run_bytes=20)) == ["a"]
    assert gone(found, Policy(max_run_bytes=20), snapshot_bytes={"run": 5}) == ["a", "b"]
    assert gone(found, Policy(max_bytes=35)) == ["a", "b"]
    assert gone(found, Policy(max_bytes=1)) == ["a", "b", "x"], "the newest of each run stays"
    assert [entry.reason for entry in plan(found, Policy(max_bytes=40))] == ["max_storage_bytes"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["r1", "r2"]),
            st.integers(0, 50),
            st.booleans(),
            st.none() | st.floats(-1, 1),
        ),
        max_size=12,
    ),
    st.builds(
        Policy,
        *[st.integers(0, 4), st.integers(0, 4), st.integers(0, 120), st.integers(0, 120)],
    ),
)
def test_protected_ones_never_go_and_none_twice(entries, policy: Policy) -> None:
    found = [
        CheckpointRecord(
            run_id, f"c{i}", "nano", LoRAConfig(), float(i), size, False, i, "",
            is_pinned=pinned, score=score,
        )
        for i, (run_id, size, pinned, score) in enumerate(entries)
    ]  # fmt: skip
    in_use = {(entry.run_id, entry.name) for entry in found[::3]}
    doomed = [entry.checkpoint for entry in plan(found, policy, in_use=in_use)]
    assert len({entry.name for entry in doomed}) == len(doomed)
    assert not any(entry.is_pinned or (entry.run_id, entry.name) in in_use for entry in doomed)
    newest = {entry.run_id: entry.name for entry in found}
    assert not any(newest[entry.run_id] == entry.name for entry in doomed)
    for run_id in newest:
        scored = [e.score for e in found if e.run_id == run_id and e.score is not None]
        best = sorted(scored, reverse=True)[: policy.keep_best]
        for entry in doomed:
            if entry.run_id == run_id and entry.score is not None and best:
                assert entry.score <= best[-1]


def test_what_protected_checkpoints_exceed_is_said() -> None:
    found = [replace(entry, is_pinned=True) for entry in held("a", "b")] + held("c", run_id="other")
    policy = Policy(max_run_bytes=15, max_bytes=24)
    assert gone(found, policy) == []
    assert excess_bytes(found, policy, {"other": 2}) == {
        "max_run_storage_bytes": 5,
        "max_storage_bytes": 8,
    }
    assert excess_bytes(found, Policy(), {}) == {}
    assert excess_bytes(found, Policy(max_run_bytes=20, max_bytes=30), {}) == {}
