"""Sessions and samplers are found again; a repeated sampler is the first one."""

from __future__ import annotations

import pytest

from eztinker.errors import ConflictError, NotFoundError
from eztinker.store import runs, sessions
from eztinker.types.records import SamplerRecord, SessionRecord
from tests.unit.store.conftest import Run
from tests.unit.store.test_log import a_run

SESSION = SessionRecord("s1", 1.0, ["a"], {"k": "v"}, display_name="mine")
SAMPLER = SamplerRecord("s1:sample:0", "s1", "nano", 1.0, "s1:train:0", "ephemeral:0")


@pytest.fixture(autouse=True)
def _session(run: Run) -> None:
    run(lambda conn: sessions.insert_session(conn, SESSION))


def test_a_session_is_found_changed_and_listed(run: Run) -> None:
    run(lambda conn: sessions.insert_session(conn, SessionRecord("s2", 2.0, [], {})))
    run(lambda conn: sessions.update_session(conn, "s1", status="finished", project_id="p"))
    found = run(lambda conn: sessions.get_session(conn, "s1"))
    assert (found.tags, found.user_metadata, found.display_name) == (["a"], {"k": "v"}, "mine")
    assert (found.status, found.project_id) == ("finished", "p")
    assert [s.session_id for s in run(sessions.list_sessions)] == ["s2", "s1"]


def test_what_is_not_there_is_said(run: Run) -> None:
    with pytest.raises(NotFoundError, match="no session 'x'"):
        run(lambda conn: sessions.update_session(conn, "x", status="finished"))
    with pytest.raises(NotFoundError, match="no sampling session 'x'"):
        run(lambda conn: sessions.get_sampler(conn, "x"))


def test_a_repeated_sampler_is_the_first_one(run: Run) -> None:
    run(lambda conn: sessions.put_sampler(conn, SAMPLER))
    run(lambda conn: sessions.put_sampler(conn, SAMPLER))
    assert run(lambda conn: sessions.get_sampler(conn, "s1:sample:0")) == SAMPLER
    assert run(lambda conn: sessions.list_sampler_ids(conn, "s1")) == ["s1:sample:0"]
    other = SamplerRecord("s1:sample:0", "s1", "other", 1.0)
    with pytest.raises(ConflictError, match="other weights"):
        run(lambda conn: sessions.put_sampler(conn, other))


def test_runs_of_a_session_are_those_with_its_prefix(run: Run) -> None:
    for run_id in ("s1:train:0", "s1:train:1", "s11:train:0", "s_:train:0"):
        run(lambda conn, run_id=run_id: runs.insert_run(conn, a_run(run_id)))
    found = run(lambda conn: sessions.list_run_ids(conn, "s1:train:"))
    assert found == ["s1:train:0", "s1:train:1"]
    assert run(lambda conn: sessions.list_run_ids(conn, "s_:train:")) == ["s_:train:0"]
