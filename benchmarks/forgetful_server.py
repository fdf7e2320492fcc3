"""The program ``eztinker`` that keeps nothing safe: no sync, no journal on the disk, no snapshot.

``python -m benchmarks.forgetful_server server …`` as ``eztinker server …``. Exists to be compared with the
program as it is (``benchmarks/durability.py``); its state does not survive a crash.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from eztinker.cli.main import run
from eztinker.engine.snapshots import Snapshots
from eztinker.store.database import Database

PRAGMAS = ("journal_mode=MEMORY", "synchronous=OFF", "foreign_keys=ON", "busy_timeout=10000")


def _set_pragmas(self: Database, connection: sqlite3.Connection, _record: Any) -> None:
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _is_due(self: Snapshots, run_id: str, *, now_s: float) -> bool:
    return False


if __name__ == "__main__":
    os.fsync = lambda _descriptor: None
    Database._set_pragmas = _set_pragmas
    Snapshots.is_due = _is_due
    run()
