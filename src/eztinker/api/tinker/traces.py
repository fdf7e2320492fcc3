"""A session's jobs as a timeline that Perfetto and Chrome's trace viewer draw.

The format is the Trace Event Format's JSON: complete events ("X") with times in microseconds, one
track for each run or sampler. Pure. Called by ``routes/tinker/history.py``.
"""

from __future__ import annotations

from typing import Any

from eztinker.types.records import JobSpan


def trace_events(spans: list[JobSpan]) -> dict[str, Any]:
    """One event for each job, from its start to its end; how long it waited stands beside it."""
    lanes = {lane: number for number, lane in enumerate(dict.fromkeys(s.lane for s in spans), 1)}
    names = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": number, "args": {"name": lane}}
        for lane, number in lanes.items()
    ]
    return {"displayTimeUnit": "ms", "traceEvents": [*names, *(_event(s, lanes) for s in spans)]}


def _event(span: JobSpan, lanes: dict[str, int]) -> dict[str, Any]:
    start_s = span.finished_at_s if span.started_at_s is None else span.started_at_s
    return {
        "ph": "X",
        "name": span.kind,
        "cat": span.status,
        "pid": 1,
        "tid": lanes[span.lane],
        "ts": round(start_s * 1e6),
        "dur": max(0, round((span.finished_at_s - start_s) * 1e6)),
        "args": {
            "job_id": span.job_id,
            "seq": span.seq,
            "status": span.status,
            "waited_s": round(start_s - span.created_at_s, 6),
        },
    }
