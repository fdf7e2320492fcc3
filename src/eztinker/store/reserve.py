"""Disk space put aside: when the disk is full, what ends work or makes room can still be written.

A file of zeros in the state folder. ``database.py`` gives it up when such a write finds no room, and
takes no new work until it is there again. Knows nothing of what is written. All functions are quick.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

FILE_NAME = "reserve"
RESERVE_BYTES = 4 * 1024 * 1024


class Reserve:
    """The reserve of one state folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._is_held = False

    def hold(self) -> bool:
        """Put the space aside unless it is; False when there is no room for it."""
        if self._is_held:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError:
            self.give_up()
        else:
            self._is_held = True
        finally:
            os.close(descriptor)
        return self._is_held

    def give_up(self) -> bool:
        """Free the space; False if there was none to free."""
        was_held, self._is_held = self._is_held, False
        with contextlib.suppress(OSError):
            self._path.unlink()
        return was_held
