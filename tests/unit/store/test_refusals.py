"""A refused request uses up its number once, and opens the way for those behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eztinker.errors import ConflictError, NotFoundError
from eztinker.store import log, runs
from eztinker.store.jobs import list_unfinished
from eztinker.types.error_info import ErrorInfo
from tests.unit.store.conftest import Run
from tests.unit.store.test_log import a_request, a_run

ERROR = ErrorInfo("unknown_loss", "no such loss", "user", "loss_fn", {})
REFUSAL = log.Refusal("job_refused", "run_1", 0, "forward_backward", ERROR, "d")


@pytest.fixture(autouse=True)
def _run(run: Run) -> None:
    run(lambda conn: runs.insert_run(conn, a_run()))


def refuse(run: Run, refusal: log.Refusal = REFUSAL):
    return run(lambda conn: log.append_refused(conn, refusal, at_s=5.0))


def test_it_is_a_failed_job_and_moves_the_next_number(run: Run) -> None:
    waiting = replace(a_request(), seq=1)
    held = run(lambda conn: log.append(conn, waiting, scope=""))
    assert held.next_seq == 0
    job, next_seq = refuse(run)
    assert next_seq == 2
    assert (job.status, job.seq, job.error, job.finished_at_s) == ("failed", 0, ERROR, 5.0)
    assert [j.job_id for j in run(list_unfinished)] == [held.job.job_id]


def test_a_repeated_one_is_the_same_job(run: Run) -> None:
    first, _ = refuse(run)
    again, next_seq = refuse(run, replace(REFUSAL, job_id="job_other"))
    assert (again.job_id, next_seq) == (first.job_id, 1)
    with pytest.raises(ConflictError, match="used before"):
        refuse(run, replace(REFUSAL, digest="another"))
    request = replace(a_request(), seq=0, digest="d")
    assert run(lambda conn: log.find(conn, request, scope="")).job_id == first.job_id


def test_a_number_of_a_run_that_is_not_there(run: Run) -> None:
    with pytest.raises(NotFoundError):
        refuse(run, replace(REFUSAL, run_id="nobody"))
