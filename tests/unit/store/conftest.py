"""Fixtures of the store tests: an open database, and ways to use it without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from eztinker.store.database import Database

Run = Callable[[Callable[[sa.Connection], Any]], Any]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "state")
    database.open()
    yield database
    database.close()


@pytest.fixture
def run(database: Database) -> Run:
    """Runs a function in a transaction and returns its value once it is durable."""
    return lambda query: database.write_soon(query).result(timeout=10)
