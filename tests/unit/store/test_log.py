"""The log numbers each run's operations without a gap, knows a repeated request, and ends a job once."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eztinker.errors import ConflictError, NotFoundError
from eztinker.store import jobs, log, runs
from eztinker.types import codec
from eztinker.types.error_info import ErrorInfo
from eztinker.types.operations import OptimStep, SaveCheckpoint, StepResult
from eztinker.types.plans import PassPlan
from eztinker.types.records import RunRecord
from eztinker.types.training import AdamParams, LoRAConfig, LossSpec
from tests.unit.store.conftest import Run

numbers = itertools.count()


def a_run(run_id: str = "run_1") -> RunRecord:
    return RunRecord(run_id, "nano", LoRAConfig(), LossSpec(), 1, "none", "ready", 0.0)


def a_request(
    run_id: str | None = "run_1",
    *,
    ordered: bool = True,
    key: str | None = None,
    digest: str = "",
) -> log.Request:
    operation = OptimStep(AdamParams(learning_rate=0.25))
    job_id = f"job_{next(numbers):08x}"
    return log.Request(job_id, run_id, operation, ordered, 1.5, key, digest)


@pytest.fixture
def two_runs(run: Run) -> None:
    for run_id in ("run_1", "run_2"):
        run(lambda conn, run_id=run_id: runs.insert_run(conn, a_run(run_id)))


def append(run: Run, request: log.Request, scope: str = "run_1") -> tuple[jobs.StoredJob, bool]:
    appended = run(lambda conn: log.append(conn, request, scope=scope))
    return appended.job, appended.is_new


def get(run: Run, job_id: str) -> jobs.StoredJob:
    return run(lambda conn: jobs.get_job(conn, job_id))


@pytest.mark.usefixtures("two_runs")
def test_a_request_becomes_a_queued_job_with_its_operation(run: Run) -> None:
    request = a_request()
    job, is_new = append(run, request)
    assert is_new
    assert (job.job_id, job.run_id, job.seq, job.kind) == (
        request.job_id,
        "run_1",
        0,
        "optim_step",
    )
    assert (job.status, job.finished_at_s, job.num_deaths) == ("queued", None, 0)
    assert job.operation() == request.operation
    assert job.record().created_at_s == 1.5


@pytest.mark.usefixtures("two_runs")
def test_each_run_counts_for_itself_and_sampling_does_not_count(run: Run) -> None:
    requests = [
        a_request("run_1"),
        a_request("run_2"),
        a_request("run_1", ordered=False),
        a_request(None, ordered=False),
        a_request("run_1"),
    ]
    assert [append(run, request)[0].seq for request in requests] == [0, 0, None, None, 1]


@pytest.mark.usefixtures("two_runs")
def test_a_refused_append_uses_no_number(run: Run) -> None:
    append(run, a_request())

    def fail(connection) -> None:
        log.append(connection, a_request(), scope="run_1")
        raise NotFoundError("later in the same transaction")

    with pytest.raises(NotFoundError):
        run(fail)
    assert append(run, a_request())[0].seq == 1


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.tuples(st.sampled_from(["run_1", "run_2"]), st.booleans(), st.booleans()), max_size=15
    )
)
def test_numbers_have_no_gap_whatever_is_logged(
    run: Run, requests: list[tuple[str, bool, bool]]
) -> None:
    for run_id in ("run_1", "run_2"):
        run(lambda conn, run_id=run_id: runs.delete_run_row(conn, run_id))
        run(lambda conn, run_id=run_id: conn.execute(jobs.jobs.delete()))
        run(lambda conn, run_id=run_id: runs.insert_run(conn, a_run(run_id)))
    seqs: dict[str, list[int]] = {"run_1": [], "run_2": []}
    for run_id, ordered, fails in requests:

        def query(connection, run_id=run_id, ordered=ordered, fails=fails) -> int | None:
            appended = log.append(connection, a_request(run_id, ordered=ordered), scope=run_id)
            if fails:
                raise NotFoundError("no")
            return appended.job.seq

        if fails:
            with pytest.raises(NotFoundError):
                run(query)
        elif ordered:
            seqs[run_id].append(run(query))
    assert all(found == list(range(len(found))) for found in seqs.values())


def test_a_deleted_run_takes_no_operations(run: Run) -> None:
    with pytest.raises(NotFoundError) as caught:
        append(run, a_request("run_gone"))
    assert caught.value.code == "run_not_found"


@pytest.mark.usefixtures("two_runs")
def test_a_taken_job_id_is_replaced(run: Run) -> None:
    """Eight hex digits meet again after some ten thousand jobs; that must not refuse a request."""
    first = a_request()
    append(run, first)
    job, is_new = append(run, replace(a_request(), job_id=first.job_id))
    assert is_new
    assert job.job_id != first.job_id
    assert job.seq == 1
    assert get(run, first.job_id).seq == 0


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.permutations(range(6)), st.integers(0, 6))
def test_the_callers_numbers_may_arrive_in_any_order(
    run: Run, order: list[int], num_arrived: int
) -> None:
    """``next_seq`` is the lowest number that has not arrived, whatever came before its turn."""
    run(lambda conn: conn.execute(jobs.jobs.delete()))
    run(lambda conn: runs.delete_run_row(conn, "run_1"))
    run(lambda conn: runs.insert_run(conn, a_run("run_1")))
    for index, seq in enumerate(order[:num_arrived]):
        request = replace(a_request(), seq=seq)
        appended = run(lambda c, request=request: log.append(c, request, scope="run_1"))
        missing = set(range(7)) - set(order[: index + 1])
        assert (appended.job.seq, appended.next_seq) == (seq, min(missing))
    expected = min(set(range(7)) - set(order[:num_arrived]))
    assert run(log.list_next_seqs)["run_1"] == expected
    assert append(run, a_request())[0].seq == expected


@pytest.mark.usefixtures("two_runs")
def test_the_same_number_answers_the_first_job_or_refuses(run: Run) -> None:
    first, _ = append(run, replace(a_request(digest="d"), seq=3))
    again, is_new = append(run, replace(a_request(digest="d"), seq=3))
    assert (again.job_id, is_new) == (first.job_id, False)
    with pytest.raises(ConflictError, match="3") as caught:
        append(run, replace(a_request(digest="other"), seq=3))
    assert caught.value.code == "seq_reused"
    assert append(run, replace(a_request("run_2", digest="other"), seq=3), "run_2")[1]


# Repeated requests --------------------------------------------------------------------------------


@pytest.mark.usefixtures("two_runs")
def test_the_same_key_answers_the_first_job(run: Run) -> None:
    first, _ = append(run, a_request(key="k", digest="d"))
    run(lambda conn: log.finish(conn, first.job_id, status="completed", finished_at_s=2.0))
    again, is_new = append(run, a_request(key="k", digest="d"))
    assert not is_new
    assert (again.job_id, again.status) == (first.job_id, "completed")
    assert append(run, a_request())[0].seq == 1


@pytest.mark.usefixtures("two_runs")
def test_the_same_key_for_another_request_is_refused(run: Run) -> None:
    first, _ = append(run, a_request(key="k", digest="d"))
    with pytest.raises(ConflictError, match=first.job_id) as caught:
        append(run, a_request(key="k", digest="other"))
    assert caught.value.code == "idempotency_key_reused"
    assert append(run, a_request())[0].seq == 1


@pytest.mark.usefixtures("two_runs")
def test_keys_belong_to_their_scope(run: Run) -> None:
    first, _ = append(run, a_request("run_1", key="k", digest="d"), "run_1")
    other, is_new = append(run, a_request("run_2", key="k", digest="e"), "run_2")
    assert is_new
    assert first.job_id != other.job_id


@pytest.mark.usefixtures("two_runs")
def test_requests_without_a_key_are_never_the_same(run: Run) -> None:
    assert append(run, a_request(digest="d"))[1]
    assert append(run, a_request(digest="d"))[1]


@pytest.mark.usefixtures("two_runs")
def test_one_key_many_times_in_one_group_makes_one_job(run: Run, database) -> None:
    def query(request: log.Request):
        return lambda conn: log.append(conn, request, scope="run_1")

    futures = [database.write_soon(query(a_request(key="k", digest="d"))) for _ in range(20)]
    told = [future.result(timeout=10) for future in futures]
    assert sum(appended.is_new for appended in told) == 1
    assert len({appended.job.job_id for appended in told}) == 1


# The end of a job ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("two_runs")
def test_a_job_ends_once(run: Run) -> None:
    job, _ = append(run, a_request())
    result = codec.encode(StepResult(1, 2.0, 0.25))

    def finish(status: str, at_s: float, **values) -> bool:
        return run(
            lambda conn: log.finish(conn, job.job_id, status=status, finished_at_s=at_s, **values)
        )

    assert finish("completed", 3.0, result=result, started_at_s=2.0, compute_s=0.5)
    assert not finish("failed", 4.0, error=ErrorInfo("late", "too late"))
    assert not finish("completed", 5.0, result=b"other")
    ended = get(run, job.job_id)
    assert (ended.status, ended.started_at_s, ended.finished_at_s) == ("completed", 2.0, 3.0)
    assert ended.decoded_result() == StepResult(1, 2.0, 0.25)
    assert (ended.error, ended.compute_s) == (None, 0.5)


@pytest.mark.usefixtures("two_runs")
def test_an_end_keeps_error_and_plan_whole(run: Run) -> None:
    failed, _ = append(run, a_request())
    done, _ = append(run, a_request())
    error = ErrorInfo("not_finite", "loss is nan 名", "user", "weights", {"index": 3})
    plan = PassPlan([[1, 0], [2]], 2, "float32", checkpointing=True)
    run(lambda c: log.finish(c, failed.job_id, status="failed", finished_at_s=1.0, error=error))
    run(lambda c: log.finish(c, done.job_id, status="completed", finished_at_s=1.0, plan=plan))
    assert get(run, failed.job_id).record().error == error
    assert get(run, done.job_id).plan == plan


@pytest.mark.usefixtures("two_runs")
def test_a_payload_is_kept_only_for_a_replay(run: Run) -> None:
    for keep in (True, False):
        job, _ = append(run, a_request())
        run(
            lambda conn, job=job, keep=keep: log.finish(
                conn, job.job_id, status="completed", finished_at_s=1.0, keep_payload=keep
            )
        )
        assert (get(run, job.job_id).payload is not None) is keep
    with pytest.raises(ValueError, match="dropped"):
        get(run, job.job_id).operation()


def test_the_end_of_an_unknown_job_changes_nothing(run: Run) -> None:
    assert not run(lambda c: log.finish(c, "job_none", status="failed", finished_at_s=1.0))


@pytest.mark.usefixtures("two_runs")
def test_deaths_add_up(run: Run) -> None:
    job, _ = append(run, a_request())
    for _ in range(2):
        run(lambda conn: log.count_death(conn, job.job_id))
    assert get(run, job.job_id).num_deaths == 2


# Reading ------------------------------------------------------------------------------------------


def test_an_unknown_job_is_named(run: Run) -> None:
    with pytest.raises(NotFoundError, match="job_none") as caught:
        get(run, "job_none")
    assert caught.value.code == "job_not_found"


@pytest.mark.usefixtures("two_runs")
def test_pages_are_newest_first_and_filtered(run: Run) -> None:
    made = [
        append(run, a_request(run_id), run_id)[0].job_id
        for run_id in ("run_1", "run_2", "run_1", "run_1")
    ]
    run(lambda conn: log.finish(conn, made[2], status="completed", finished_at_s=1.0))

    def page(**filters) -> tuple[list[str], int]:
        values = {"run_id": None, "status": None, "limit": 10, "offset": 0, **filters}
        found, total = run(lambda conn: jobs.list_jobs(conn, **values))
        return [job.job_id for job in found], total

    assert page() == (made[::-1], 4)
    assert page(limit=2, offset=1) == ([made[2], made[1]], 4)
    assert page(run_id="run_1") == ([made[3], made[2], made[0]], 3)
    assert page(run_id="run_1", status="completed") == ([made[2]], 1)
    assert page(offset=9) == ([], 4)


@pytest.mark.usefixtures("two_runs")
def test_a_restart_finds_what_has_not_ended_in_order_of_arrival(run: Run) -> None:
    made = [append(run, a_request(run_id), run_id)[0] for run_id in ("run_2", "run_1", "run_1")]
    run(lambda conn: log.finish(conn, made[1].job_id, status="failed", finished_at_s=1.0))
    unfinished = run(jobs.list_unfinished)
    assert [job.job_id for job in unfinished] == [made[0].job_id, made[2].job_id]


@pytest.mark.usefixtures("two_runs")
def test_a_replay_takes_completed_changes_of_state_in_order(run: Run) -> None:
    requests = [a_request() for _ in range(5)]
    requests[1] = replace(requests[1], operation=SaveCheckpoint("a"))
    made = [append(run, request)[0] for request in requests]
    endings = ["completed", "completed", "failed", "completed", None]
    for job, status in reversed(list(zip(made, endings, strict=True))):
        if status is not None:
            run(
                lambda conn, job=job, status=status: log.finish(
                    conn, job.job_id, status=status, finished_at_s=1.0, keep_payload=True
                )
            )

    def seqs(after_seq: int) -> list[int]:
        found = run(lambda conn: jobs.list_replayable(conn, "run_1", after_seq=after_seq))
        return [job.seq for job in found]

    assert seqs(-1) == [0, 3]
    assert seqs(0) == [3]
    assert seqs(3) == []
