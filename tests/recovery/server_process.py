"""A real server as a process that a test can kill: itself, or its worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


class ServerProcess:
    """A server on one state folder; ``kill`` and ``start`` it as often as needed.

    Args:
        folder: gets ``state``, the log and the file that says it is ready.
        flags: of ``eztinker server``.
        program: ``tests.recovery.fake_server`` for one whose worker is arithmetic, without torch.

    Attributes:
        url: where it answers; the port stays the same over restarts.
    """

    def __init__(self, folder: Path, *flags: str, program: str = "eztinker") -> None:
        self._program = program
        self._folder = folder
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self.url = ""

    def start(self, *, failpoint: str = "") -> ServerProcess:
        """Start it and wait until it answers.

        Args:
            failpoint: ``NAME:N``, where this life ends (``eztinker.failpoints``).
        """
        ready = self._folder / "ready"
        ready.unlink(missing_ok=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", self._program, "server", "--port", str(self._port)),
            *("--state-dir", str(self._folder / "state"), "--ready-file", str(ready), *self._flags),
        ]
        environ = {**os.environ, "HF_HUB_OFFLINE": "1", "EZTINKER_NUM_THREADS": "1"}
        environ["EZTINKER_FAILPOINT"] = failpoint
        environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(ROOT), environ.get("PYTHONPATH")))
        )
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, stdout=log, env=environ)
        deadline = time.monotonic() + 60
        while not ready.exists():
            if failpoint and self._process.poll() == -signal.SIGKILL:
                return self.start()  # it died while it started
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        self.url = ready.read_text()
        self._port = int(self.url.rpartition(":")[2])
        return self

    def log(self) -> str:
        return (self._folder / "server.log").read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL the server; its worker notices and goes too."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def is_alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def kill_worker(self) -> bool:
        """SIGKILL the engine worker; False if there is none just now."""
        return self._signal_worker(signal.SIGKILL)

    def stop_worker(self) -> bool:
        """SIGSTOP the engine worker, which then neither works nor dies; False if there is none."""
        return self._signal_worker(signal.SIGSTOP)

    def _signal_worker(self, signum: signal.Signals) -> bool:
        assert self._process is not None
        for child in psutil.Process(self._process.pid).children():
            with contextlib.suppress(psutil.Error):  # one that has just died
                if any("eztinker.engine.worker" in part for part in child.cmdline()):
                    child.send_signal(signum)
                    return True
        return False

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=30)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
