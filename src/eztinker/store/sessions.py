"""Rows of ``sessions`` and ``samplers``: what clients of the Tinker protocol hold on to.

Functions over an open connection, called inside ``Database.write`` or ``read``.
"""

from __future__ import annotations

import dataclasses

import msgspec
import sqlalchemy as sa

from eztinker.errors import ConflictError, NotFoundError
from eztinker.store.tables import runs, samplers, sessions
from eztinker.types.records import SamplerRecord, SessionRecord

_SAMPLER = tuple(field.name for field in dataclasses.fields(SamplerRecord))


def insert_session(connection: sa.Connection, session: SessionRecord) -> None:
    """Store a new session."""
    connection.execute(
        sessions.insert().values(
            session_id=session.session_id,
            created_at_s=session.created_at_s,
            tags_json=msgspec.json.encode(session.tags).decode(),
            user_metadata_json=msgspec.json.encode(session.user_metadata).decode(),
            display_name=session.display_name,
            project_id=session.project_id,
            status=session.status,
            owner=session.owner,
        )
    )


def get_session(connection: sa.Connection, session_id: str) -> SessionRecord:
    """The session.

    Raises:
        NotFoundError: code ``session_not_found``.
    """
    row = connection.execute(
        sa.select(sessions).where(sessions.c.session_id == session_id)
    ).one_or_none()
    if row is None:
        raise session_not_found(session_id)
    return _session(row)


def session_not_found(session_id: str) -> NotFoundError:
    """What is said of a session that does not exist, or not for the one who asks."""
    return NotFoundError(
        f"There is no session {session_id!r} on this server. Make a new ServiceClient.",
        code="session_not_found",
        field="session_id",
    )


def list_sessions(connection: sa.Connection, owner: str | None = None) -> list[SessionRecord]:
    """Sessions of one owner or of all, newest first."""
    query = sa.select(sessions).order_by(sessions.c.created_at_s.desc(), sessions.c.session_id)
    if owner is not None:
        query = query.where(sessions.c.owner == owner)
    return [_session(row) for row in connection.execute(query)]


def update_session(connection: sa.Connection, session_id: str, **values: str | None) -> None:
    """Change a session's status or project.

    Raises:
        NotFoundError: code ``session_not_found``.
    """
    get_session(connection, session_id)
    connection.execute(
        sessions.update().where(sessions.c.session_id == session_id).values(**values)
    )


def list_run_ids(connection: sa.Connection, prefix: str) -> list[str]:
    """Ids of runs that begin with ``prefix``, oldest first."""
    starts = runs.c.run_id.startswith(prefix, autoescape=True)
    return list(
        connection.scalars(sa.select(runs.c.run_id).where(starts).order_by(runs.c.created_at_s))
    )


# Samplers -----------------------------------------------------------------------------------------


def put_sampler(connection: sa.Connection, sampler: SamplerRecord) -> None:
    """Store a sampler; a repeated request finds its own and changes nothing.

    Raises:
        ConflictError: code ``seq_reused``, one of this id has other weights.
    """
    known = _find_sampler(connection, sampler.sampler_id)
    if known is None:
        connection.execute(samplers.insert().values(**dataclasses.asdict(sampler)))
        return
    same = (known.base_model, known.run_id, known.checkpoint) == (
        sampler.base_model,
        sampler.run_id,
        sampler.checkpoint,
    )
    if not same:
        raise ConflictError(
            f"Sampling session {sampler.sampler_id} was made before with other weights. Use a new number.",
            code="seq_reused",
            field="sampling_session_seq_id",
        )


def get_sampler(connection: sa.Connection, sampler_id: str) -> SamplerRecord:
    """The sampler.

    Raises:
        NotFoundError: code ``sampler_not_found``.
    """
    sampler = _find_sampler(connection, sampler_id)
    if sampler is None:
        raise sampler_not_found(sampler_id)
    return sampler


def sampler_not_found(sampler_id: str) -> NotFoundError:
    """What is said of a sampler that does not exist, or not for the one who asks."""
    return NotFoundError(
        f"There is no sampling session {sampler_id!r} on this server. Make a new sampling client.",
        code="sampler_not_found",
        field="sampling_session_id",
    )


def count_client(connection: sa.Connection, sampler_id: str) -> int:
    """Count one more client of a sampler, and return how many have joined.

    Raises:
        NotFoundError: code ``sampler_not_found``.
    """
    get_sampler(connection, sampler_id)
    this = samplers.c.sampler_id == sampler_id
    connection.execute(samplers.update().where(this).values(num_joined=samplers.c.num_joined + 1))
    return connection.execute(sa.select(samplers.c.num_joined).where(this)).scalar_one()


def list_sampler_ids(connection: sa.Connection, session_id: str) -> list[str]:
    """Samplers of a session, oldest first."""
    query = sa.select(samplers.c.sampler_id).where(samplers.c.session_id == session_id)
    return list(connection.scalars(query.order_by(samplers.c.created_at_s)))


def _find_sampler(connection: sa.Connection, sampler_id: str) -> SamplerRecord | None:
    row = connection.execute(
        sa.select(samplers).where(samplers.c.sampler_id == sampler_id)
    ).one_or_none()
    return None if row is None else SamplerRecord(**{name: row._mapping[name] for name in _SAMPLER})


def _session(row: sa.Row) -> SessionRecord:
    return SessionRecord(
        session_id=row.session_id,
        created_at_s=row.created_at_s,
        tags=msgspec.json.decode(row.tags_json),
        user_metadata=msgspec.json.decode(row.user_metadata_json),
        display_name=row.display_name,
        project_id=row.project_id,
        status=row.status,
        owner=row.owner,
    )
