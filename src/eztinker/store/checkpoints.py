"""Rows of ``checkpoints``: named states of runs.

Their files are ``blobs.py``'s business. Functions over an open connection, called inside
``Database.write`` or ``read``.
"""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from eztinker.errors import AlreadyExistsError, NotFoundError
from eztinker.store.jobs import list_unfinished
from eztinker.store.tables import checkpoints, runs, snapshots
from eztinker.types.operations import CreateRun, LoadCheckpoint, Sample
from eztinker.types.records import CheckpointRecord
from eztinker.types.training import LoRAConfig


def put_checkpoint(
    connection: sa.Connection, checkpoint: CheckpointRecord, *, overwrite: bool
) -> None:
    """Store a checkpoint.

    Raises:
        AlreadyExistsError: the run has one of this name and ``overwrite`` is off.
    """
    if not overwrite:
        refuse_existing(connection, checkpoint.run_id, checkpoint.name)
    connection.execute(checkpoints.delete().where(_is(checkpoint.run_id, checkpoint.name)))
    connection.execute(
        checkpoints.insert().values(
            run_id=checkpoint.run_id,
            name=checkpoint.name,
            base_model=checkpoint.base_model,
            lora_json=msgspec.json.encode(checkpoint.lora).decode(),
            created_at_s=checkpoint.created_at_s,
            size_bytes=checkpoint.size_bytes,
            is_sampler=checkpoint.is_sampler,
            step=checkpoint.step,
            folder=checkpoint.folder,
            expires_at_s=checkpoint.expires_at_s,
            is_public=checkpoint.is_public,
            user_metadata_json=msgspec.json.encode(checkpoint.user_metadata).decode(),
            owner=checkpoint.owner,
            quantization=checkpoint.quantization,
            is_pinned=checkpoint.is_pinned,
            score=checkpoint.score,
        )
    )


def refuse_existing(connection: sa.Connection, run_id: str, name: str) -> None:
    """Raise ``AlreadyExistsError`` if the run has a checkpoint of this name."""
    if connection.scalar(sa.select(checkpoints.c.name).where(_is(run_id, name))) is not None:
        raise AlreadyExistsError(
            f"Run {run_id!r} has a checkpoint named {name!r}. Choose another name, or pass "
            "overwrite: true (on the command line, --overwrite).",
            code="checkpoint_exists",
            field="name",
        )


def get_checkpoint(
    connection: sa.Connection,
    run_id: str,
    name: str,
    *,
    owner: str | None = None,
    public_too: bool = False,
) -> CheckpointRecord:
    """The checkpoint.

    Args:
        owner: the only one whose checkpoints exist for the one who asks; None for all.
        public_too: those that others have published exist as well.

    Raises:
        NotFoundError: code ``checkpoint_not_found``; names those the run has.
    """
    row = connection.execute(sa.select(checkpoints).where(_is(run_id, name))).one_or_none()
    if row is None or not (owner in (None, row.owner) or (public_too and row.is_public)):
        names = [entry.name for entry in list_checkpoints(connection, run_id, owner)]
        held = f"It has: {', '.join(names[:10])}." if names else "It has none."
        raise NotFoundError(
            f"Run {run_id!r} has no checkpoint named {name!r}. {held}",
            code="checkpoint_not_found",
            field="checkpoint",
        )
    return _checkpoint(row)


def newest_named(connection: sa.Connection, run_id: str, prefix: str) -> str | None:
    """Name of a run's newest checkpoint whose name begins with ``prefix``; None if there is none."""
    return connection.scalar(
        sa.select(checkpoints.c.name)
        .where(checkpoints.c.run_id == run_id)
        .where(checkpoints.c.name.startswith(prefix, autoescape=True))
        .order_by(checkpoints.c.created_at_s.desc())
        .limit(1)
    )


def need_in_sight(connection: sa.Connection, run_id: str, name: str, *, owner: str) -> None:
    """Refuse a checkpoint that ``owner`` may not use; one that a run of theirs may yet save passes.

    Raises:
        NotFoundError: code ``checkpoint_not_found``.
    """
    exists = connection.scalar(sa.select(checkpoints.c.name).where(_is(run_id, name)))
    run_owner = connection.scalar(sa.select(runs.c.owner).where(runs.c.run_id == run_id))
    if exists is not None or run_owner != owner:
        get_checkpoint(connection, run_id, name, owner=owner, public_too=True)


def list_checkpoints(
    connection: sa.Connection, run_id: str | None, owner: str | None = None
) -> list[CheckpointRecord]:
    """Checkpoints of one run or of all, of one owner or of all; oldest first."""
    query = sa.select(checkpoints)
    if owner is not None:
        query = query.where(checkpoints.c.owner == owner)
    if run_id is not None:
        query = query.where(checkpoints.c.run_id == run_id)
    rows = connection.execute(query.order_by(checkpoints.c.created_at_s, checkpoints.c.name))
    return [_checkpoint(row) for row in rows]


def set_folder(connection: sa.Connection, run_id: str, name: str, folder: str) -> None:
    """Note where a checkpoint's files lie now."""
    connection.execute(checkpoints.update().where(_is(run_id, name)).values(folder=folder))


def set_expiry(
    connection: sa.Connection,
    run_id: str,
    name: str,
    expires_at_s: float | None,
    owner: str | None = None,
) -> None:
    """Change when a checkpoint is deleted.

    Raises:
        NotFoundError: code ``checkpoint_not_found``.
    """
    get_checkpoint(connection, run_id, name, owner=owner)
    connection.execute(
        checkpoints.update().where(_is(run_id, name)).values(expires_at_s=expires_at_s)
    )


def set_public(
    connection: sa.Connection, run_id: str, name: str, is_public: bool, owner: str | None = None
) -> None:
    """Mark a checkpoint as published, or not.

    Raises:
        NotFoundError: code ``checkpoint_not_found``.
    """
    get_checkpoint(connection, run_id, name, owner=owner)
    connection.execute(checkpoints.update().where(_is(run_id, name)).values(is_public=is_public))


def set_keeping(
    connection: sa.Connection,
    run_id: str,
    name: str,
    *,
    is_pinned: bool | None = None,
    score: float | None = None,
    owner: str | None = None,
) -> CheckpointRecord:
    """Pin or unpin a checkpoint, give it a score; None leaves as it is.

    Raises:
        NotFoundError: code ``checkpoint_not_found``.
    """
    get_checkpoint(connection, run_id, name, owner=owner)
    given = {"is_pinned": is_pinned, "score": score}
    values = {key: value for key, value in given.items() if value is not None}
    if values:
        connection.execute(checkpoints.update().where(_is(run_id, name)).values(**values))
    return get_checkpoint(connection, run_id, name, owner=owner)


def list_in_use(connection: sa.Connection) -> set[tuple[str, str]]:
    """Run and name of the checkpoints that accepted jobs will read."""
    found: set[tuple[str | None, str | None]] = set()
    for job in list_unfinished(connection):
        operation = job.operation()
        if isinstance(operation, LoadCheckpoint):
            found.add((operation.source_run_id, operation.name))
        elif isinstance(operation, Sample):
            found.add((operation.weights.run_id, operation.weights.checkpoint))
        elif isinstance(operation, CreateRun):
            found.add((operation.source_run_id, operation.source_name))
    return {(run_id, name) for run_id, name in found if run_id and name}


def sum_snapshot_bytes(connection: sa.Connection) -> dict[str, int]:
    """What each run's snapshots take."""
    total = sa.func.sum(snapshots.c.size_bytes).label("total")
    rows = connection.execute(sa.select(snapshots.c.run_id, total).group_by(snapshots.c.run_id))
    return {row.run_id: row.total for row in rows}


def list_expired(connection: sa.Connection, now_s: float) -> list[CheckpointRecord]:
    """Checkpoints whose time is over."""
    query = sa.select(checkpoints).where(checkpoints.c.expires_at_s <= now_s)
    return [_checkpoint(row) for row in connection.execute(query)]


def delete_checkpoint(
    connection: sa.Connection, run_id: str, name: str, owner: str | None = None
) -> CheckpointRecord:
    """Forget a checkpoint; returns it so that its files can follow.

    Raises:
        NotFoundError: code ``checkpoint_not_found``.
    """
    checkpoint = get_checkpoint(connection, run_id, name, owner=owner)
    connection.execute(checkpoints.delete().where(_is(run_id, name)))
    return checkpoint


def _is(run_id: str, name: str) -> sa.ColumnElement[bool]:
    return (checkpoints.c.run_id == run_id) & (checkpoints.c.name == name)


def _checkpoint(row: sa.Row) -> CheckpointRecord:
    return CheckpointRecord(
        run_id=row.run_id,
        name=row.name,
        base_model=row.base_model,
        lora=msgspec.json.decode(row.lora_json, type=LoRAConfig),
        created_at_s=row.created_at_s,
        size_bytes=row.size_bytes,
        is_sampler=row.is_sampler,
        step=row.step,
        folder=row.folder,
        expires_at_s=row.expires_at_s,
        is_public=row.is_public,
        user_metadata=msgspec.json.decode(row.user_metadata_json),
        owner=row.owner,
        quantization=row.quantization,
        is_pinned=row.is_pinned,
        score=row.score,
    )
