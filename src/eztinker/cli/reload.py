"""``server --reload``: keeps a server running and starts it anew when the package's sources change.

Runs the server as a child process and watches modification times; the state survives, because the server's
state is durable. Called by the ``server`` command.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from eztinker.cli.output import note
from eztinker.cli.texts import say

LOOK_EVERY_S = 0.5
STOP_TIMEOUT_S = 30.0


def serve_reloading(arguments: Sequence[str], folder: Path | None = None) -> int:
    """Run ``eztinker ARGUMENTS`` until interrupted, restarting it when a source below ``folder`` changes.

    A server that ends with an error is left alone until the next change, since that may mend it.

    Returns:
        The exit code of a server that ended by itself in good order or for wrong usage, else 0.
    """
    watched = folder or Path(__file__).resolve().parent.parent
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        while True:
            before = _stamps(watched)
            child = _start(arguments)
            try:
                exit_code = _watch(child, watched, before)
            finally:
                _stop(child)
            if exit_code is not None:
                return exit_code
            note(say("reloaded"))
    except KeyboardInterrupt:
        return 0


def _as_interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "eztinker", *arguments, "--exit-with-parent"]
    # Its own session: Ctrl-C reaches this process alone, which then stops the child in order.
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603


def _watch(child: subprocess.Popen[bytes], folder: Path, before: dict[Path, int]) -> int | None:
    """Until a source changes (None), or the child ends in a way that no change of source mends."""
    while _stamps(folder) == before:
        if child.poll() in (0, 2):
            return child.returncode
        time.sleep(LOOK_EVERY_S)
    return None


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.stdin is not None:
        child.stdin.close()
    child.terminate()
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _stamps(folder: Path) -> dict[Path, int]:
    """Modification time of every source; one that vanishes meanwhile is left out."""
    stamps = {}
    for path in folder.rglob("*.py"):
        try:
            stamps[path] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return stamps
