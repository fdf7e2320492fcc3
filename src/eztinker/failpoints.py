"""Named places where a test can have this process die, to show what survives it.

``EZTINKER_FAILPOINT=NAME:N`` ends the process with SIGKILL when it passes the place NAME for the N-th
time; nothing is flushed and nobody is told, as if the power had gone. Without the variable a place
costs one comparison. Knows nothing of what the places do. Armed by ``launch.py`` and by the worker's
process; passed by the store, the worker's files and the answers.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping

from eztinker.errors import InvalidRequestError

VARIABLE = "EZTINKER_FAILPOINT"

SERVER_POINTS = {
    "commit.before": "a transaction is written, not committed",
    "commit.after": "it is committed, and nobody has been told",
    "answer.before": "a request that changes something is done, its answer not sent",
    "answer.after": "its answer is handed to the network",
    "manifest.before": "a folder's files are there, its manifest is not",
    "manifest.after": "the manifest is written and synced",
    "rename.before": "a folder is complete and synced under its temporary name",
    "rename.after": "it has its final name, which may not be on the disk",
    "folder.after": "its final name is on the disk, the database does not know it",
    "discard.before": "a folder is nobody's, and in its place",
    "discard.after": "it is renamed to trash, its files are there",
}
"""In the server's process: name -> what holds there."""

WORKER_POINTS = {
    "file.before": "a file of a state is written, not synced",
    "file.after": "it is synced",
    "event.before": "the worker has done something, the server does not know",
    "event.after": "the worker has said so",
}
"""In the process of a server's first worker: name -> what holds there."""

POINTS = {**SERVER_POINTS, **WORKER_POINTS}

_lock = threading.Lock()
_name: str | None = None
_passes_left = 0


def arm(environ: Mapping[str, str] | None = None) -> bool:
    """Obey the variable from now on; returns whether it is set.

    Raises:
        InvalidRequestError: no such place, or no positive number.
    """
    global _name, _passes_left
    text = (os.environ if environ is None else environ).get(VARIABLE)
    if not text:
        _name = None
        return False
    name, _, number = text.partition(":")
    if name not in POINTS or not number.isdecimal() or int(number) < 1:
        raise InvalidRequestError(
            f"{VARIABLE} is {text!r}; expected NAME:N with N from 1 and one of {', '.join(POINTS)}.",
            field=VARIABLE,
        )
    _name, _passes_left = name, int(number)
    return True


def reach(name: str) -> None:
    """Pass the place ``name``: die here if the variable says so."""
    global _passes_left
    if _name != name:
        return
    with _lock:
        _passes_left -= 1
        if _passes_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
