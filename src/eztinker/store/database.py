"""The database of one state folder: one writer, many readers, one owner.

``write`` runs a function inside a transaction and returns when it is durable. All functions that
wait while a commit is on its way to the disk share the next one (group commit), each in a savepoint
of its own so that one failing does not take the others along. On a full disk only what ends work or
makes room is written, from a reserve. Knows nothing of what is stored.
Called by the service and the engine; the queries stand in the files named after the tables.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import event, exc, pool

from eztinker import failpoints
from eztinker.errors import ConflictError, DiskFullError, EZTinkerError, StorageError
from eztinker.store.reserve import Reserve

T = TypeVar("T")
Query = Callable[[sa.Connection], T]

FILE_NAME = "eztinker.sqlite3"
MAX_GROUP = 256
"""Writes that share one commit at most."""


class Database:
    """Durable storage of a state folder. ``open`` it, ``close`` it; at most one process at a time."""

    def __init__(self, state_dir: Path, *, durability: str = "full") -> None:
        self._path = state_dir / FILE_NAME
        self._synchronous = "FULL" if durability == "full" else "NORMAL"
        self._reserve = Reserve(state_dir)
        self._lock_file: int | None = None
        self._engine: sa.Engine | None = None
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        # Held while a write enters the queue, so that none can come behind its end.
        self._entrance = threading.Lock()
        self._accepting = False
        self._writer: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None

    def open(self) -> None:
        """Take the folder, migrate the schema, start the writer.

        Raises:
            ConflictError: another process owns the folder (code ``state_in_use``).
            StorageError: the folder cannot be made, or the file is no database of ours or of a
                newer version.
        """
        self._take_folder()
        try:
            self._engine = self._connect()
            self._migrate(self._engine)
        except BaseException:
            self.close()
            raise
        self._writer = threading.Thread(
            target=self._write_forever, args=(self._engine,), name="eztinker-write", daemon=True
        )
        self._reserve.hold()
        self._writer.start()
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="eztinker-read")
        self._accepting = True

    def close(self) -> None:
        """Finish queued writes and let the folder go; idempotent."""
        with self._entrance:
            self._accepting = False
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join()
            self._writer = None
        if self._readers is not None:
            self._readers.shutdown()
            self._readers = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    async def write(self, query: Query[T], *, may_use_reserve: bool = False) -> T:
        """Run ``query`` in a transaction; return its value once it is durable.

        Args:
            may_use_reserve: it ends work or makes room, so it is written on a full disk too.

        Raises:
            DiskFullError, StorageError: nothing of ``query`` was kept.
            EZTinkerError: whatever ``query`` raised; nothing of it was kept.
        """
        future = self.write_soon(query, may_use_reserve=may_use_reserve)
        return await asyncio.wrap_future(future)

    def write_soon(self, query: Query[T], *, may_use_reserve: bool = False) -> Future[T]:
        """Like ``write`` for callers without an event loop; keeps the order of calls."""
        write = _Write(query, may_use_reserve=may_use_reserve)
        with self._entrance:
            self._refuse_unless_open()
            self._queue.put(write)
        return write.future

    async def read(self, query: Query[T]) -> T:
        """Run ``query`` on committed data, beside the writer.

        Raises:
            StorageError: the database is closed or cannot be read.
            EZTinkerError: whatever ``query`` raised.
        """
        self._refuse_unless_open()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, query)

    # Opening --------------------------------------------------------------------------------------

    def _take_folder(self) -> None:
        folder = self._path.parent
        try:
            # Prompts lie there: a new folder is for this user alone.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                f"The state folder {folder} cannot be used: {error.strerror}. "
                "Give a folder that can be written as --state-dir."
            ) from error
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_file)
            self._lock_file = None
            raise ConflictError(
                f"Another EZTinker server uses the state folder {folder}. "
                "Stop it, or give this one its own --state-dir.",
                code="state_in_use",
            ) from None

    def _connect(self) -> sa.Engine:
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self._path)),
            poolclass=pool.QueuePool,
            pool_size=4,
            connect_args={"check_same_thread": False, "isolation_level": None},
        )
        event.listen(engine, "connect", self._set_pragmas)
        # The driver would begin only before the first write; a transaction must begin at once so
        # that what it reads is what it then changes.
        event.listen(engine, "begin", lambda conn: conn.exec_driver_sql("BEGIN"))
        return engine

    def _set_pragmas(self, connection: sqlite3.Connection, _record: Any) -> None:
        for pragma in (
            "journal_mode=WAL",
            f"synchronous={self._synchronous}",
            "foreign_keys=ON",
            "busy_timeout=10000",
        ):
            connection.execute(f"PRAGMA {pragma}")

    def _migrate(self, engine: sa.Engine) -> None:
        config = Config()
        folder = str(Path(__file__).parent / "migrations")
        config.set_main_option("script_location", folder.replace("%", "%%"))
        try:
            with engine.begin() as connection:
                config.attributes["connection"] = connection
                self._refuse_newer(connection, config)
                command.upgrade(config, "head")
        except (exc.DatabaseError, sqlite3.DatabaseError) as error:
            raise StorageError(
                f"{self._path} cannot be opened as an EZTinker database: {_reason(error)}. "
                "Restore a copy of the state folder, or start with a new --state-dir."
            ) from error

    def _refuse_newer(self, connection: sa.Connection, config: Config) -> None:
        if not sa.inspect(connection).has_table("alembic_version"):
            return
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise StorageError(
                f"The state folder {self._path.parent} was written by a newer EZTinker (schema "
                f"{found}; this one knows up to {max(known)}). Install that version again, or "
                "start with a new --state-dir.",
                code="state_too_new",
            )

    # Reading and writing --------------------------------------------------------------------------

    def _refuse_unless_open(self) -> None:
        if not self._accepting:
            raise StorageError(f"The database {self._path} is closed.")

    def _read(self, query: Query[T]) -> T:
        assert self._engine is not None
        try:
            with self._engine.connect() as connection:
                return query(connection)
        except (exc.DatabaseError, sqlite3.DatabaseError) as error:
            raise _storage_error(error) from error

    def _write_forever(self, engine: sa.Engine) -> None:
        with engine.connect() as connection:
            while (write := self._queue.get()) is not None:
                group, last = self._gather(write)
                self._commit(connection, group)
                if last:
                    return

    def _gather(self, first: _Write) -> tuple[list[_Write], bool]:
        """All writes that wait already; True when the queue was closed behind them."""
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                write = self._queue.get_nowait()
            except queue.Empty:
                break
            if write is None:
                return group, True
            group.append(write)
        return group, False

    def _commit(self, connection: sa.Connection, group: list[_Write]) -> None:
        group = [write for write in group if write.future.set_running_or_notify_cancel()]
        if not self._reserve.hold():
            _fail([write for write in group if not write.may_use_reserve], _disk_full("no reserve"))
            group = [write for write in group if write.may_use_reserve]
        error = self._try(connection, group)
        entitled = [write for write in group if write.may_use_reserve]
        if isinstance(error, DiskFullError) and entitled and self._reserve.give_up():
            _fail([write for write in group if not write.may_use_reserve], error)
            group = entitled
            error = self._try(connection, group)
        if error is not None:
            _fail(group, error)
        else:
            for write in group:
                write.settle()

    def _try(self, connection: sa.Connection, group: list[_Write]) -> EZTinkerError | None:
        """Write a group in one transaction; the error if nothing of it was kept."""
        if not group:
            return None
        try:
            with connection.begin() as transaction:
                for write in group:
                    # Alone it needs no savepoint: with its failure nothing else is undone.
                    write.run(connection, None if len(group) > 1 else transaction)
                failpoints.reach("commit.before")
            failpoints.reach("commit.after")
        except (exc.SQLAlchemyError, sqlite3.Error) as error:
            return _storage_error(error)
        return None


def _fail(group: list[_Write], error: EZTinkerError) -> None:
    for write in group:
        write.future.set_exception(error)


class _Write:
    """One caller's function on its way through the writer."""

    def __init__(self, query: Query[Any], *, may_use_reserve: bool) -> None:
        self.future: Future[Any] = Future()
        self.may_use_reserve = may_use_reserve
        self._query = query
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self, connection: sa.Connection, whole: sa.RootTransaction | None) -> None:
        """Execute inside ``whole``, the transaction, if that is nobody else's."""
        self._error = None  # of an earlier try
        undo = connection.begin_nested() if whole is None else whole
        try:
            self._value = self._query(connection)
        except (exc.DatabaseError, sqlite3.DatabaseError) as error:
            self._error = _storage_error(error)
            if isinstance(self._error, DiskFullError):
                raise  # SQLite may have given up the transaction: the whole group is lost
            undo.rollback()
        except Exception as error:
            self._error = error
            undo.rollback()
        else:
            if whole is None:
                undo.commit()

    def settle(self) -> None:
        """Tell the caller; only now has the commit succeeded or failed."""
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._value)


def _storage_error(error: Exception) -> EZTinkerError:
    reason = _reason(error)
    if "disk is full" in reason or "disk I/O error" in reason:
        return _disk_full(reason)
    return StorageError(f"The database could not be used: {reason}.")


def _disk_full(reason: str) -> DiskFullError:
    return DiskFullError(
        f"No room to store the request durably ({reason}). Free space on the disk that holds "
        "the state folder, for example by deleting checkpoints; nothing was changed.",
        retry_after_s=10.0,
    )


def _reason(error: Exception) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).splitlines()[0] if str(original) else type(original).__name__
