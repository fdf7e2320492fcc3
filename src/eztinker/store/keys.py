"""Rows of ``keys``: who may come in, as digests.

Functions over an open connection, called inside ``Database.write`` or ``read``.
"""

from __future__ import annotations

from typing import cast

import sqlalchemy as sa

from eztinker.errors import NotFoundError
from eztinker.store.tables import keys
from eztinker.types.principal import Scope
from eztinker.types.records import KeyRecord


def insert_key(connection: sa.Connection, key: KeyRecord) -> None:
    """Store a new key."""
    values = {name: getattr(key, name) for name in keys.c.keys()}  # noqa: SIM118
    connection.execute(keys.insert().values({**values, "scopes": " ".join(key.scopes)}))


def list_keys(connection: sa.Connection) -> list[KeyRecord]:
    """All keys, revoked ones included, oldest first."""
    query = sa.select(keys).order_by(keys.c.created_at_s, keys.c.key_id)
    return [_key(row) for row in connection.execute(query)]


def revoke_key(connection: sa.Connection, key_id: str, at_s: float) -> KeyRecord:
    """Note that a key no longer holds; one that was revoked before keeps its time.

    Raises:
        NotFoundError: code ``key_not_found``.
    """
    connection.execute(
        keys.update()
        .where((keys.c.key_id == key_id) & keys.c.revoked_at_s.is_(None))
        .values(revoked_at_s=at_s)
    )
    row = connection.execute(sa.select(keys).where(keys.c.key_id == key_id)).one_or_none()
    if row is None:
        raise NotFoundError(
            f"There is no key {key_id[:100]!r}. `eztinker keys list` shows the ids.",
            code="key_not_found",
            field="key_id",
        )
    return _key(row)


def _key(row: sa.Row) -> KeyRecord:
    scopes = cast("tuple[Scope, ...]", tuple(row.scopes.split()))
    return KeyRecord(**{**row._mapping, "scopes": scopes})
