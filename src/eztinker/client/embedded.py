"""An EZTinker server of one's own, as a child process: for notebooks, scripts and the demo.

Starts ``python -m eztinker server`` on a free loopback port, waits until it is ready, and stops it. The
child ends with its parent, even a killed one, because it watches the pipe that is its standard input.
Imports nothing of the server and speaks no HTTP. Called by ``EZTinkerClient.embedded`` and its async
twin.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError, ServerUnreachableError
from eztinker.local_access import LocalAccess

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 20.0
PREDECESSOR_TIMEOUT_S = 20.0
"""How long the server of a program that was killed may take to end, before its folder counts as another's."""
LOG_FILE = "server.log"
_READY_FILE = "ready-url"
_LOCK_FILE = "lock"
_NOT_SETTINGS = frozenset({"host", "port"})


class EmbeddedServer:
    """A running child server.

    Attributes:
        base_url: its address.
        api_key: a key that holds as long as it runs; needed where its state folder has keys.
        state_dir: where its database, checkpoints and ``server.log`` lie.

    Args:
        models: base models to load at start; the first is the default model.
        state_dir: a folder to keep and continue; None makes a temporary one, removed by ``close``.
        settings: any further setting of ``eztinker.config.ServerConfig``, by name.

    Raises:
        InvalidRequestError: the server refused its settings; the message is its own.
        ServerUnreachableError: it ended or was not ready in time; the message shows its last words.
    """

    def __init__(
        self,
        models: Sequence[str] = (),
        *,
        state_dir: str | os.PathLike[str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        environment = _environment(settings or {})
        self._scratch = Path(tempfile.mkdtemp(prefix="eztinker-"))
        self.state_dir = self._scratch / "state" if state_dir is None else Path(state_dir)
        self.state_dir.mkdir(parents=True, exist_ok=True)
        wait_for_predecessor(self.state_dir)
        log = self.state_dir / LOG_FILE
        self._said_before = log.stat().st_size if log.exists() else 0
        self._process = self._start(models, environment)
        self._finalizer = weakref.finalize(self, _stop, self._process, self._scratch)
        try:
            self.base_url = self._wait_until_ready()
            access = LocalAccess.read(self.state_dir)
        except BaseException:
            self.close()
            raise
        self.api_key = access.api_key if access else None

    def _start(
        self, models: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "eztinker", "server", "--host", "127.0.0.1", "--port", "0"]
        command += ["--state-dir", str(self.state_dir), "--exit-with-parent"]
        command += ["--ready-file", str(self._scratch / _READY_FILE)]
        command += [part for model in models for part in ("--model", model)]
        with (self.state_dir / LOG_FILE).open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                # A Ctrl-C meant for the script must not take the server away under its clean-up.
                start_new_session=True,
            )

    def _wait_until_ready(self) -> str:
        ready_file = self._scratch / _READY_FILE
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not ready_file.exists():
            if self._process.poll() is not None:
                raise self._ended(self._process.returncode)
            if time.monotonic() > deadline_s:
                raise ServerUnreachableError(
                    f"The embedded server was not ready within {START_TIMEOUT_S:.0f} s. "
                    f"It said: {self._last_words()}"
                )
            time.sleep(0.02)
        return ready_file.read_text(encoding="utf-8").strip()

    def _ended(self, exit_code: int) -> Exception:
        message = f"The embedded server ended at its start (exit code {exit_code}). It said: {self._last_words()}"
        return InvalidRequestError(message) if exit_code == 2 else ServerUnreachableError(message)

    def _last_words(self) -> str:
        said = (self.state_dir / LOG_FILE).read_bytes()[self._said_before :]
        return said.decode("utf-8", errors="replace")[-1500:].strip() or "(nothing)"

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the child lives."""
        return self._process.poll() is None

    def close(self) -> None:
        """Stop the server gracefully and remove what was temporary; may be called again."""
        self._finalizer()


def wait_for_predecessor(state_dir: Path, timeout_s: float = PREDECESSOR_TIMEOUT_S) -> None:
    """Return when no server holds the lock of a state folder, or when the time is up.

    A killed program's server sees that its parent is gone and ends, but the same command may be given again before it has.
    Whether the folder is really another's is for the server to say.
    """
    deadline_s = time.monotonic() + timeout_s
    while _is_held(state_dir / _LOCK_FILE) and time.monotonic() < deadline_s:
        time.sleep(0.05)


def _is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as ``EZTINKER_*`` variables: stronger than files, and refused by name if unknown."""
    for name in settings:
        if name in _NOT_SETTINGS:
            raise InvalidRequestError(
                f"{name}: an embedded server takes a free port of the loopback address. "
                "Use 'eztinker server' to choose it.",
                field=name,
            )
    return {
        # A text stands as it is: quotes would become part of it.
        f"EZTINKER_{name.upper()}": value
        if isinstance(value, str)
        else json.dumps(value, default=str)
        for name, value in settings.items()
        if value is not None
    }


def _stop(process: subprocess.Popen[bytes], scratch: Path) -> None:
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
    for insist in (process.terminate, process.kill):
        try:
            process.wait(STOP_TIMEOUT_S)
            break
        except subprocess.TimeoutExpired:
            insist()
    process.wait()
    shutil.rmtree(scratch, ignore_errors=True)
