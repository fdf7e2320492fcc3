"""The newest time that a state folder knows, to tell a clock that was set back while no server ran.

A function over an open connection, called inside ``Database.read`` when the service starts.
"""

from __future__ import annotations

import sqlalchemy as sa

from eztinker.store.tables import checkpoints, jobs, runs, sessions


def newest_time_s(connection: sa.Connection) -> float:
    """Seconds since the epoch at which the newest entry was made; 0 in an empty folder."""
    # Jobs are many and stand in the order of their arrival: the last one will do.
    last_job = sa.select(jobs.c.created_at_s, jobs.c.finished_at_s).order_by(jobs.c.number.desc())
    job = connection.execute(last_job.limit(1)).one_or_none()
    times = [time_s or 0.0 for time_s in job or ()]
    for table in (runs, checkpoints, sessions):
        times.append(connection.scalar(sa.select(sa.func.max(table.c.created_at_s))) or 0.0)
    return max(times, default=0.0)
