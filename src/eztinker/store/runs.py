"""Rows of ``runs`` and ``snapshots`` to records and back.

Functions over an open connection, called inside ``Database.write`` or ``read``.
"""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from eztinker.errors import AlreadyExistsError, NotFoundError
from eztinker.store.tables import checkpoints, jobs, runs, snapshots
from eztinker.types.operations import RunCreated
from eztinker.types.records import RunRecord, SnapshotRecord
from eztinker.types.training import LoRAConfig, LossSpec


def insert_run(connection: sa.Connection, run: RunRecord) -> None:
    """Store a new run; its operation 0 is the creation itself.

    Raises:
        AlreadyExistsError: a run of this id exists, or another owner holds checkpoints under it.
    """
    taken = connection.scalar(sa.select(runs.c.run_id).where(runs.c.run_id == run.run_id))
    foreign = (checkpoints.c.run_id == run.run_id) & (checkpoints.c.owner != run.owner)
    if taken is None:
        taken = connection.scalar(sa.select(checkpoints.c.run_id).where(foreign).limit(1))
    if taken is not None:
        raise AlreadyExistsError(
            f"A run named {run.run_id!r} exists. Choose another run_id, or delete that run first.",
            code="run_exists",
            field="run_id",
        )
    connection.execute(
        runs.insert().values(
            run_id=run.run_id,
            base_model=run.base_model,
            lora_json=_to_json(run.lora),
            loss_json=_to_json(run.loss),
            seed=run.seed,
            quantization=run.quantization,
            status=run.status,
            created_at_s=run.created_at_s,
            step=run.step,
            next_seq=0,
            facts_json="{}",
            user_metadata_json=_to_json(run.user_metadata),
            owner=run.owner,
        )
    )


def get_run(connection: sa.Connection, run_id: str) -> RunRecord:
    """The run.

    Raises:
        NotFoundError: code ``run_not_found``.
    """
    row = connection.execute(sa.select(runs).where(runs.c.run_id == run_id)).one_or_none()
    if row is None:
        raise not_found(run_id)
    return _run(row)


def not_found(run_id: str) -> NotFoundError:
    """What is said of a run that does not exist, or not for the one who asks."""
    return NotFoundError(
        f"There is no run {run_id!r}. GET /v1/runs (or `eztinker list-runs`) lists them.",
        code="run_not_found",
        field="run_id",
    )


def list_runs(
    connection: sa.Connection,
    *,
    limit: int,
    offset: int,
    base_model: str | None,
    owner: str | None = None,
) -> tuple[list[RunRecord], int]:
    """One page of runs, of one owner or of all, newest first, and how many there are in all."""
    query = sa.select(runs)
    if owner is not None:
        query = query.where(runs.c.owner == owner)
    if base_model is not None:
        query = query.where(runs.c.base_model == base_model)
    total = connection.scalar(sa.select(sa.func.count()).select_from(query.subquery()))
    page = query.order_by(runs.c.created_at_s.desc(), runs.c.run_id).limit(limit).offset(offset)
    return [_run(row) for row in connection.execute(page)], total or 0


def list_base_folders(connection: sa.Connection) -> dict[str, str]:
    """For each name of a base model that a run was made by, the folder it meant for the newest one."""
    rows = connection.execute(
        sa.select(runs.c.base_model, runs.c.facts_json).order_by(runs.c.created_at_s)
    )
    folders = {row.base_model: msgspec.json.decode(row.facts_json) for row in rows}
    return {
        name: facts["base_folder"] for name, facts in folders.items() if facts.get("base_folder")
    }


def count_runs(connection: sa.Connection, owner: str | None = None) -> int:
    """How many runs there are, of one owner or of all."""
    query = sa.select(sa.func.count()).select_from(runs)
    if owner is not None:
        query = query.where(runs.c.owner == owner)
    return connection.scalar(query) or 0


def complete_creation(
    connection: sa.Connection,
    created: RunCreated,
    *,
    base_folder: str = "",
    base_fingerprint: str = "",
) -> None:
    """Mark a run as ready, with what the worker found out about it and what its base model was."""
    base = {"base_folder": base_folder, "base_fingerprint": base_fingerprint}
    facts = msgspec.to_builtins(created) | base
    connection.execute(
        runs.update()
        .where(runs.c.run_id == created.run_id)
        .values(status="ready", facts_json=_to_json(facts))
    )


def set_step(connection: sa.Connection, run_id: str, step: int) -> None:
    """Record how many optimizer steps are committed."""
    connection.execute(runs.update().where(runs.c.run_id == run_id).values(step=step))


def delete_run(connection: sa.Connection, run_id: str) -> None:
    """Forget a run, its jobs and snapshots. Checkpoints stay."""
    get_run(connection, run_id)
    connection.execute(jobs.delete().where(jobs.c.run_id == run_id))
    connection.execute(snapshots.delete().where(snapshots.c.run_id == run_id))
    delete_run_row(connection, run_id)


def delete_run_row(connection: sa.Connection, run_id: str) -> None:
    """Forget a run that never came to life; its failed creation stays as a job."""
    connection.execute(runs.delete().where(runs.c.run_id == run_id))


# Snapshots ----------------------------------------------------------------------------------------


def insert_snapshot(connection: sa.Connection, snapshot: SnapshotRecord, *, keep: int) -> list[str]:
    """Store a snapshot and drop all but the newest ``keep``.

    Payloads that no remaining snapshot needs for its replay are emptied.

    Returns:
        Folders of the dropped snapshots, now nobody's.
    """
    connection.execute(snapshots.insert().values(**_snapshot_values(snapshot)))
    held = list_snapshots(connection, snapshot.run_id)
    dropped = held[keep:]
    for old in dropped:
        connection.execute(
            snapshots.delete().where(
                (snapshots.c.run_id == old.run_id) & (snapshots.c.seq == old.seq)
            )
        )
    if dropped:
        connection.execute(
            jobs.update()
            .where((jobs.c.run_id == snapshot.run_id) & (jobs.c.seq <= held[keep - 1].seq))
            .where(jobs.c.payload.is_not(None) & jobs.c.finished_at_s.is_not(None))
            .values(payload=None)
        )
    return [old.folder for old in dropped]


def list_snapshots(connection: sa.Connection, run_id: str) -> list[SnapshotRecord]:
    """A run's snapshots, newest first."""
    rows = connection.execute(
        sa.select(snapshots).where(snapshots.c.run_id == run_id).order_by(snapshots.c.seq.desc())
    )
    return [SnapshotRecord(**row._mapping) for row in rows]


def list_snapshot_folders(connection: sa.Connection) -> set[str]:
    """Folders of all snapshots; anything else beside them is left over from a crash."""
    return set(connection.scalars(sa.select(snapshots.c.folder)))


def _snapshot_values(snapshot: SnapshotRecord) -> dict[str, object]:
    return {name: getattr(snapshot, name) for name in snapshots.c.keys()}  # noqa: SIM118


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _run(row: sa.Row) -> RunRecord:
    facts = msgspec.json.decode(row.facts_json)
    return RunRecord(
        run_id=row.run_id,
        base_model=row.base_model,
        lora=msgspec.json.decode(row.lora_json, type=LoRAConfig),
        loss=msgspec.json.decode(row.loss_json, type=LossSpec),
        seed=row.seed,
        quantization=row.quantization,
        status=row.status,
        created_at_s=row.created_at_s,
        step=row.step,
        device=facts.get("device", ""),
        num_trainable_parameters=facts.get("num_trainable_parameters", 0),
        target_modules=facts.get("target_modules", []),
        user_metadata=msgspec.json.decode(row.user_metadata_json),
        from_checkpoint=facts.get("source_name") is not None,
        base_folder=facts.get("base_folder", ""),
        base_fingerprint=facts.get("base_fingerprint", ""),
        owner=row.owner,
    )
