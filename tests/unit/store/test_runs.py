"""Rows of runs, snapshots and checkpoints: kept whole, found, replaced and dropped by their rules."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eztinker.errors import AlreadyExistsError, NotFoundError, StorageError
from eztinker.store import checkpoints, jobs, log, runs
from eztinker.types.operations import OptimStep, RunCreated
from eztinker.types.records import CheckpointRecord, RunRecord, SnapshotRecord
from eztinker.types.training import AdamParams, LoRAConfig, LossSpec
from tests.unit.store.conftest import Run

LORA = LoRAConfig(r=3, lora_alpha=7.5, target_modules=("q_proj", "v_proj"), seed=9)


def a_run(run_id: str = "run_1", created_at_s: float = 1.0, base_model: str = "nano") -> RunRecord:
    loss = LossSpec("ppo", {"clip_low_threshold": 0.8}, "sum")
    return RunRecord(
        run_id,
        base_model,
        LORA,
        loss,
        2**31 - 1,
        "none",
        "creating",
        created_at_s,
        user_metadata={"who": "名"},
    )


def insert(run: Run, record: RunRecord) -> None:
    run(lambda conn: runs.insert_run(conn, record))


def get(run: Run, run_id: str) -> RunRecord:
    return run(lambda conn: runs.get_run(conn, run_id))


# Runs ---------------------------------------------------------------------------------------------


def test_a_run_comes_back_whole(run: Run) -> None:
    insert(run, a_run())
    assert get(run, "run_1") == a_run()


def test_a_taken_name_is_refused_and_changes_nothing(run: Run) -> None:
    insert(run, a_run())
    with pytest.raises(AlreadyExistsError, match="run_1") as caught:
        insert(run, a_run(base_model="other"))
    assert (caught.value.code, caught.value.field) == ("run_exists", "run_id")
    assert get(run, "run_1").base_model == "nano"


def test_an_unknown_run_is_named(run: Run) -> None:
    with pytest.raises(NotFoundError, match="run_none") as caught:
        get(run, "run_none")
    assert caught.value.code == "run_not_found"


def test_a_finished_creation_adds_what_the_worker_found(run: Run) -> None:
    insert(run, a_run())
    run(lambda c: runs.complete_creation(c, RunCreated("run_1", "cpu", 42, ["q_proj"])))
    run(lambda c: runs.set_step(c, "run_1", 5))
    found = get(run, "run_1")
    assert (found.status, found.device, found.num_trainable_parameters) == ("ready", "cpu", 42)
    assert (found.target_modules, found.step, found.lora) == (["q_proj"], 5, LORA)


def test_pages_are_newest_first_and_count_all(run: Run) -> None:
    for index, base_model in enumerate(["nano", "other", "nano", "nano"]):
        insert(run, a_run(f"run_{index}", float(index), base_model))

    def page(limit: int, offset: int, base_model: str | None = None) -> tuple[list[str], int]:
        found, total = run(
            lambda c: runs.list_runs(c, limit=limit, offset=offset, base_model=base_model)
        )
        return [record.run_id for record in found], total

    assert page(10, 0) == (["run_3", "run_2", "run_1", "run_0"], 4)
    assert page(2, 1) == (["run_2", "run_1"], 4)
    assert page(1, 0, "nano") == (["run_3"], 3)
    assert run(runs.count_runs) == 4


def test_deleting_a_run_forgets_jobs_and_snapshots_but_not_checkpoints(run: Run) -> None:
    for run_id in ("run_1", "run_2"):
        insert(run, a_run(run_id))
        append(run, run_id)
        run(lambda c, run_id=run_id: runs.insert_snapshot(c, a_snapshot(0, run_id), keep=2))
        run(lambda c, run_id=run_id: put(c, a_checkpoint(run_id=run_id)))
    run(lambda c: runs.delete_run(c, "run_1"))
    with pytest.raises(NotFoundError):
        get(run, "run_1")
    assert run(lambda c: runs.list_snapshots(c, "run_1")) == []
    assert [job.run_id for job in run(jobs.list_unfinished)] == ["run_2"]
    assert run(runs.list_snapshot_folders) == {"/snapshots/run_2/0"}
    assert len(run(lambda c: checkpoints.list_checkpoints(c, "run_1"))) == 1
    with pytest.raises(NotFoundError):
        run(lambda c: runs.delete_run(c, "run_1"))


# Snapshots ----------------------------------------------------------------------------------------


def a_snapshot(seq: int, run_id: str = "run_1") -> SnapshotRecord:
    return SnapshotRecord(run_id, seq, seq // 2, f"/snapshots/{run_id}/{seq}", 1.0, 10)


def append(run: Run, run_id: str = "run_1", *, finished: bool = False) -> int:
    """Log an operation and return its number."""
    number = run(lambda c: len(jobs.list_jobs(c, run_id=None, status=None, limit=999, offset=0)[0]))
    operation = OptimStep(AdamParams())
    request = log.Request(f"job_{number:08x}", run_id, operation, True, 1.0)
    job = run(lambda c: log.append(c, request, scope=run_id)).job
    if finished:
        run(
            lambda c: log.finish(
                c, job.job_id, status="completed", finished_at_s=1.0, keep_payload=True
            )
        )
    return job.seq


def with_payload(run: Run, run_id: str = "run_1") -> list[int]:
    found, _ = run(lambda c: jobs.list_jobs(c, run_id=run_id, status=None, limit=999, offset=0))
    return sorted(job.seq for job in found if job.payload is not None)


def test_the_newest_snapshots_are_kept_and_the_others_named(run: Run) -> None:
    insert(run, a_run())
    dropped = [
        run(lambda c, seq=seq: runs.insert_snapshot(c, a_snapshot(seq), keep=2))
        for seq in (2, 4, 6, 8)
    ]
    assert dropped == [[], [], ["/snapshots/run_1/2"], ["/snapshots/run_1/4"]]
    assert run(lambda c: runs.list_snapshots(c, "run_1")) == [a_snapshot(8), a_snapshot(6)]


def test_a_late_snapshot_does_not_push_out_a_newer_one(run: Run) -> None:
    insert(run, a_run())
    for seq in (6, 8):
        run(lambda c, seq=seq: runs.insert_snapshot(c, a_snapshot(seq), keep=2))
    assert run(lambda c: runs.insert_snapshot(c, a_snapshot(4), keep=2)) == ["/snapshots/run_1/4"]
    assert run(lambda c: runs.list_snapshots(c, "run_1")) == [a_snapshot(8), a_snapshot(6)]


def test_payloads_go_when_the_oldest_kept_snapshot_holds_their_effect(run: Run) -> None:
    for run_id in ("run_1", "run_2"):
        insert(run, a_run(run_id))
        for _ in range(9):
            append(run, run_id, finished=True)
    for seq in (2, 4):
        run(lambda c, seq=seq: runs.insert_snapshot(c, a_snapshot(seq), keep=2))
    assert with_payload(run) == list(range(9))
    run(lambda c: runs.insert_snapshot(c, a_snapshot(6), keep=2))
    assert with_payload(run) == [5, 6, 7, 8]
    assert with_payload(run, "run_2") == list(range(9))


def test_an_unfinished_operation_keeps_its_payload(run: Run) -> None:
    insert(run, a_run())
    for finished in (True, False, True, True):
        append(run, finished=finished)
    for seq in (1, 2, 3):
        run(lambda c, seq=seq: runs.insert_snapshot(c, a_snapshot(seq), keep=2))
    assert with_payload(run) == [1, 3]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seqs=st.lists(st.integers(0, 11), unique=True, max_size=6),
    keep=st.integers(1, 3),
    damaged=st.integers(0, 2),
)
def test_every_kept_snapshot_can_still_be_replayed_from(
    run: Run, seqs: list[int], keep: int, damaged: int
) -> None:
    """Whichever of the kept snapshots survive, the operations after them are in the log."""
    if run(runs.count_runs):
        run(lambda c: runs.delete_run(c, "run_1"))
    insert(run, a_run())
    for _ in range(12):
        append(run, finished=True)
    for seq in seqs:
        run(lambda c, seq=seq: runs.insert_snapshot(c, a_snapshot(seq), keep=keep))
    held = run(lambda c: runs.list_snapshots(c, "run_1"))
    assert [snapshot.seq for snapshot in held] == sorted(seqs, reverse=True)[:keep]
    for snapshot in held[damaged:]:
        replayed = run(
            lambda c, snapshot=snapshot: jobs.list_replayable(c, "run_1", after_seq=snapshot.seq)
        )
        assert [job.seq for job in replayed] == list(range(snapshot.seq + 1, 12))
        assert all(job.payload is not None for job in replayed)


def test_a_snapshot_of_a_run_that_is_gone_is_refused(run: Run) -> None:
    with pytest.raises(StorageError):
        run(lambda c: runs.insert_snapshot(c, a_snapshot(1), keep=2))
    assert run(runs.list_snapshot_folders) == set()


# Checkpoints --------------------------------------------------------------------------------------


def a_checkpoint(name: str = "best", *, run_id: str = "run_1", step: int = 3) -> CheckpointRecord:
    return CheckpointRecord(run_id, name, "nano", LORA, float(step), 99, False, step, f"/c/{name}")


def put(connection, checkpoint: CheckpointRecord, *, overwrite: bool = False) -> None:
    checkpoints.put_checkpoint(connection, checkpoint, overwrite=overwrite)


def test_a_checkpoint_comes_back_whole(run: Run) -> None:
    run(lambda c: put(c, a_checkpoint()))
    assert run(lambda c: checkpoints.get_checkpoint(c, "run_1", "best")) == a_checkpoint()


def test_a_taken_checkpoint_name_is_refused_unless_overwritten(run: Run) -> None:
    run(lambda c: put(c, a_checkpoint()))
    with pytest.raises(AlreadyExistsError, match="best") as caught:
        run(lambda c: put(c, a_checkpoint(step=4)))
    assert caught.value.code == "checkpoint_exists"
    assert run(lambda c: checkpoints.get_checkpoint(c, "run_1", "best")).step == 3
    run(lambda c: put(c, a_checkpoint(step=4), overwrite=True))
    assert run(lambda c: checkpoints.list_checkpoints(c, "run_1")) == [a_checkpoint(step=4)]
    run(lambda c: put(c, a_checkpoint(run_id="run_2")))


def test_an_unknown_checkpoint_names_those_there_are(run: Run) -> None:
    run(lambda c: put(c, a_checkpoint("one")))
    with pytest.raises(NotFoundError, match="one") as caught:
        run(lambda c: checkpoints.get_checkpoint(c, "run_1", "two"))
    assert caught.value.code == "checkpoint_not_found"
    with pytest.raises(NotFoundError, match="none"):
        run(lambda c: checkpoints.get_checkpoint(c, "run_9", "two"))


def test_checkpoints_are_listed_oldest_first_and_deleted_once(run: Run) -> None:
    for step, name in ((2, "b"), (1, "a"), (3, "c")):
        run(lambda c, step=step, name=name: put(c, a_checkpoint(name, step=step)))
    run(lambda c: put(c, a_checkpoint("z", run_id="run_2", step=9)))

    def listed(run_id: str | None) -> list[str]:
        return [found.name for found in run(lambda c: checkpoints.list_checkpoints(c, run_id))]

    assert listed("run_1") == ["a", "b", "c"]
    assert listed(None) == ["a", "b", "c", "z"]
    assert run(lambda c: checkpoints.delete_checkpoint(c, "run_1", "b")).folder == "/c/b"
    assert listed("run_1") == ["a", "c"]
    with pytest.raises(NotFoundError):
        run(lambda c: checkpoints.delete_checkpoint(c, "run_1", "b"))
