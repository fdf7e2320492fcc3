"""The mean time between ends, from given clock readings."""

from __future__ import annotations

import pytest

from eztinker.engine.pace import Pace


def test_nothing_is_known_before_a_job_has_ended() -> None:
    assert Pace().wait_s(3) is None


def test_idle_time_does_not_count() -> None:
    pace = Pace()
    for began_s in (0.0, 100.0, 200.0):
        pace.note_end(started_s=began_s, ended_s=began_s + 2.0)
    assert pace.wait_s(3) == pytest.approx(6.0)


def test_jobs_side_by_side_end_faster_than_they_run() -> None:
    pace = Pace()
    for number in range(200):
        pace.note_end(started_s=number - 10.0, ended_s=float(number))
    wait_s = pace.wait_s(1)
    assert wait_s is not None
    assert wait_s == pytest.approx(1.0, rel=0.05)
