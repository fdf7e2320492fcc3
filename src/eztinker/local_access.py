"""How those who may read a state folder reach the server that uses it: its address and a key.

The server writes the file at its start, for its own user only, and takes it away at its end; the key is a
new one each time. Whoever can read it could read the database as well. Written by ``launch.py``; read by
``eztinker keys`` and by embedded clients.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "server.json"


@dataclass(frozen=True, slots=True)
class LocalAccess:
    """Address and key of a running server."""

    base_url: str
    api_key: str

    def write(self, state_dir: Path) -> None:
        """Leave it in the state folder, readable for this user alone."""
        temporary = state_dir / f".{FILE}.tmp"
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        temporary.replace(state_dir / FILE)

    @staticmethod
    def read(state_dir: Path) -> LocalAccess | None:
        """What a running server left there; None if there is none that can be read."""
        try:
            return LocalAccess(**json.loads((state_dir / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @staticmethod
    def remove(state_dir: Path) -> None:
        """The server ends."""
        (state_dir / FILE).unlink(missing_ok=True)
