"""One owner, one writer, grouped commits; nothing is told before it is durable, nothing half kept."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event

from eztinker.errors import ConflictError, DiskFullError, NotFoundError, StorageError
from eztinker.store.database import FILE_NAME, MAX_GROUP, Database
from eztinker.store.tables import checkpoints, metadata
from tests.unit.store.conftest import Run


def put(name: str, *, size_bytes: int = 0) -> Callable[[sa.Connection], str]:
    """A write of one row; any table will do."""

    def query(connection: sa.Connection) -> str:
        needed = [
            column.name
            for column in checkpoints.c
            if column.server_default is None and not column.nullable
        ]
        values: dict[str, Any] = dict.fromkeys(needed, "x")
        numbers = {"created_at_s": 0.0, "size_bytes": size_bytes, "is_sampler": False, "step": 0}
        connection.execute(checkpoints.insert().values(**{**values, **numbers, "name": name}))
        return name

    return query


def names(connection: sa.Connection) -> set[str]:
    return set(connection.scalars(sa.select(checkpoints.c.name)))


def names_on_disk(state_dir: Path) -> set[str]:
    """What another process, or the next life, would see."""
    connection = sqlite3.connect(state_dir / FILE_NAME)
    try:
        return {row[0] for row in connection.execute("SELECT name FROM checkpoints")}
    finally:
        connection.close()


class Gate:
    """Holds the writer inside a transaction, so that later writes gather behind it."""

    def __init__(self, database: Database) -> None:
        self._open = threading.Event()
        entered = threading.Event()

        def query(_connection: sa.Connection) -> None:
            entered.set()
            assert self._open.wait(10)

        self._future = database.write_soon(query)
        assert entered.wait(10)

    def release(self) -> None:
        self._open.set()
        self._future.result(timeout=10)


# Opening ------------------------------------------------------------------------------------------


def test_the_migrated_schema_is_that_of_the_tables(run: Run) -> None:
    def differences(connection: sa.Connection) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    assert run(differences) == []


async def test_a_second_owner_is_refused_and_may_follow(tmp_path: Path, database: Database) -> None:
    second = Database(tmp_path / "state")
    with pytest.raises(ConflictError) as caught:
        second.open()
    assert caught.value.code == "state_in_use"
    assert str(tmp_path / "state") in caught.value.message
    second.close()
    database.close()
    second.open()
    assert await second.read(names) == set()
    second.close()


def test_contents_outlive_the_process(tmp_path: Path, database: Database, run: Run) -> None:
    run(put("kept"))
    database.close()
    again = Database(tmp_path / "state")
    again.open()
    assert again.write_soon(names).result(timeout=10) == {"kept"}
    again.close()


def test_a_newer_schema_is_refused_and_untouched(tmp_path: Path, database: Database) -> None:
    database.write_soon(
        lambda conn: conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    ).result(timeout=10)
    database.close()
    before = (tmp_path / "state" / FILE_NAME).read_bytes()
    with pytest.raises(StorageError, match=r"newer.*9999") as caught:
        Database(tmp_path / "state").open()
    assert caught.value.code == "state_too_new"
    assert (tmp_path / "state" / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"no database " * 100, b"SQLite format 3\x00" + b"\xff" * 5000]
)
def test_a_file_that_is_no_database_is_refused_and_untouched(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(StorageError, match="Restore a copy"):
        Database(tmp_path).open()
    assert (tmp_path / FILE_NAME).read_bytes() == content


def test_a_database_of_someone_else_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("CREATE TABLE runs (theirs TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(StorageError, match="cannot be opened"):
        Database(tmp_path).open()


def test_a_folder_that_was_refused_is_free_again(tmp_path: Path) -> None:
    """Who mends the file can open it without ending the process that failed to."""
    (tmp_path / FILE_NAME).write_bytes(b"no database " * 100)
    refused = Database(tmp_path)
    with pytest.raises(StorageError):
        refused.open()
    (tmp_path / FILE_NAME).unlink()
    mended = Database(tmp_path)
    mended.open()
    mended.close()


def test_a_state_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for state_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="file"):
            Database(state_dir).open()


@pytest.mark.parametrize("name", ["a b", "a?b=c", "100%25", "a#b", "名", "a%(here)s"])
def test_a_state_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    database = Database(tmp_path / name)
    database.open()
    database.close()
    assert (tmp_path / name / FILE_NAME).is_file()


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
def test_durability_is_what_sqlite_was_told(tmp_path: Path, durability: str, level: int) -> None:
    database = Database(tmp_path, durability=durability)
    database.open()

    def pragmas(connection: sa.Connection) -> list[Any]:
        asked = ("synchronous", "journal_mode", "foreign_keys")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked]

    assert database.write_soon(pragmas).result(timeout=10) == [level, "wal", 1]
    database.close()


def test_damaged_pages_are_an_error_and_never_an_answer(tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.open()
    for number in range(200):
        database.write_soon(put(f"{number:0200d}")).result(timeout=10)
    database.close()
    file = tmp_path / FILE_NAME
    data = bytearray(file.read_bytes())
    data[8192:] = b"\x55" * (len(data) - 8192)
    file.write_bytes(bytes(data))

    damaged = Database(tmp_path)
    with pytest.raises(StorageError):
        open_and_read(damaged)
    damaged.close()


def open_and_read(database: Database) -> None:
    database.open()
    database.write_soon(names).result(timeout=10)


# Writing ------------------------------------------------------------------------------------------


def test_writes_that_wait_share_one_commit(database: Database) -> None:
    commits: list[int] = []
    event.listen(database._engine, "commit", lambda _connection: commits.append(1))
    gate = Gate(database)
    futures = [database.write_soon(put(f"{number}")) for number in range(50)]
    gate.release()
    assert [future.result(timeout=10) for future in futures] == [f"{n}" for n in range(50)]
    assert len(commits) == 2


def test_a_group_is_bounded(database: Database) -> None:
    commits: list[int] = []
    event.listen(database._engine, "commit", lambda _connection: commits.append(1))
    gate = Gate(database)
    futures = [database.write_soon(lambda _: None) for _ in range(MAX_GROUP + 1)]
    gate.release()
    for future in futures:
        future.result(timeout=10)
    assert len(commits) == 3


def test_nobody_is_told_before_the_commit(tmp_path: Path, database: Database) -> None:
    told: list[set[str]] = []
    gate = Gate(database)
    futures = [database.write_soon(put(name)) for name in ("a", "b")]
    for future in futures:
        future.add_done_callback(lambda _: told.append(names_on_disk(tmp_path / "state")))
    gate.release()
    futures[-1].result(timeout=10)
    assert told[0] == {"a", "b"}


def test_a_failing_write_takes_nobody_along(tmp_path: Path, database: Database) -> None:
    def half(connection: sa.Connection) -> None:
        put("half")(connection)
        raise NotFoundError("gone")

    def bug(connection: sa.Connection) -> None:
        put("bug")(connection)
        raise ZeroDivisionError

    gate = Gate(database)
    before, failed, broken, after = map(
        database.write_soon, (put("before"), half, bug, put("after"))
    )
    gate.release()
    assert (before.result(timeout=10), after.result(timeout=10)) == ("before", "after")
    assert isinstance(failed.exception(timeout=10), NotFoundError)
    assert isinstance(broken.exception(timeout=10), ZeroDivisionError)
    assert names_on_disk(tmp_path / "state") == {"before", "after"}


def test_a_broken_rule_of_the_schema_is_a_storage_error_of_one(
    tmp_path: Path, database: Database
) -> None:
    gate = Gate(database)
    first, again, other = map(database.write_soon, (put("a"), put("a"), put("b")))
    gate.release()
    assert (first.result(timeout=10), other.result(timeout=10)) == ("a", "b")
    assert isinstance(again.exception(timeout=10), StorageError)
    assert names_on_disk(tmp_path / "state") == {"a", "b"}


def test_writes_keep_their_order(database: Database, run: Run) -> None:
    order: list[int] = []
    futures = [
        database.write_soon(lambda _conn, number=number: order.append(number))
        for number in range(500)
    ]
    for future in futures:
        future.result(timeout=10)
    assert order == list(range(500))


async def test_many_tasks_write_and_read_at_once(database: Database) -> None:
    told = await asyncio.gather(*(database.write(put(f"{number}")) for number in range(64)))
    assert told == [f"{number}" for number in range(64)]
    assert await database.read(names) == set(told)


async def test_a_reader_sees_only_what_is_committed(database: Database) -> None:
    await database.write(put("first"))
    inside, leave = threading.Event(), threading.Event()

    def slow(connection: sa.Connection) -> None:
        put("second")(connection)
        inside.set()
        assert leave.wait(10)

    writing = asyncio.ensure_future(database.write(slow))
    assert await asyncio.to_thread(inside.wait, 10)
    assert await database.read(names) == {"first"}
    leave.set()
    await writing
    assert await database.read(names) == {"first", "second"}


async def test_a_cancelled_write_is_whole_or_absent(database: Database) -> None:
    gate = Gate(database)
    writing = asyncio.ensure_future(database.write(put("cancelled")))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await asyncio.to_thread(gate.release)
    await database.write(put("after"))
    assert await database.read(names) == {"after"}


# Endings ------------------------------------------------------------------------------------------


def fill_the_disk(connection: sa.Connection) -> None:
    num_pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    connection.exec_driver_sql(f"PRAGMA max_page_count = {num_pages}")


def free_the_disk(connection: sa.Connection) -> None:
    connection.exec_driver_sql("PRAGMA max_page_count = 1000000")


def test_a_full_disk_keeps_nothing_and_passes(tmp_path: Path, database: Database, run: Run) -> None:
    run(put("before"))
    run(fill_the_disk)
    gate = Gate(database)
    futures = [database.write_soon(put("x" * 100_000)), database.write_soon(put("small"))]
    gate.release()
    for future in futures:
        error = future.exception(timeout=10)
        assert isinstance(error, DiskFullError)
        assert error.retry_after_s is not None
    assert names_on_disk(tmp_path / "state") == {"before"}
    run(free_the_disk)
    run(put("after"))
    assert names_on_disk(tmp_path / "state") == {"before", "after"}


async def test_a_full_disk_does_not_stop_readers(database: Database) -> None:
    await database.write(put("before"))
    await database.write(fill_the_disk)
    with pytest.raises(DiskFullError):
        await database.write(put("x" * 100_000))
    assert await database.read(names) == {"before"}


async def test_a_failing_read_is_a_storage_error(database: Database) -> None:
    with pytest.raises(StorageError, match="no such table"):
        await database.read(lambda conn: conn.exec_driver_sql("SELECT * FROM nowhere"))
    assert await database.read(names) == set()


def test_one_bad_statement_does_not_take_the_group_along(
    tmp_path: Path, database: Database
) -> None:
    gate = Gate(database)
    bad = database.write_soon(lambda conn: conn.exec_driver_sql("SELECT * FROM nowhere"))
    good = database.write_soon(put("good"))
    gate.release()
    assert isinstance(bad.exception(timeout=10), StorageError)
    assert good.result(timeout=10) == "good"
    assert names_on_disk(tmp_path / "state") == {"good"}


def test_close_finishes_what_waits(tmp_path: Path, database: Database) -> None:
    futures = [database.write_soon(put(f"{number}")) for number in range(20)]
    database.close()
    assert all(future.done() for future in futures)
    assert len(names_on_disk(tmp_path / "state")) == 20


def test_close_is_idempotent_and_may_come_before_open(tmp_path: Path, database: Database) -> None:
    database.close()
    database.close()
    Database(tmp_path / "never").close()
    assert not (tmp_path / "never").exists()


async def test_a_closed_database_refuses_and_does_not_hang(database: Database) -> None:
    database.close()
    with pytest.raises(StorageError, match="closed"):
        await asyncio.wait_for(database.write(put("late")), 5)
    with pytest.raises(StorageError, match="closed"):
        await asyncio.wait_for(database.read(names), 5)


async def test_without_its_reserve_only_what_makes_room_is_written(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills, a deletion takes the reserve, new work waits until there is room for it again."""

    def no_room(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    failures = [DiskFullError("full"), None, None]

    def once_full(connection: sa.Connection) -> str:
        if failures.pop(0) is not None:
            raise sqlite3.OperationalError("database or disk is full")
        return put("ended")(connection)

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    assert await database.write(once_full, may_use_reserve=True) == "ended"
    with pytest.raises(DiskFullError):
        await database.write(put("new"))
    assert await database.write(put("ended too"), may_use_reserve=True) == "ended too"
    monkeypatch.undo()
    assert await database.write(put("new")) == "new"
    assert await database.read(names) == {"ended", "ended too", "new"}
