"""A real server as a process that a test can kill: itself, or its worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from tests.recovery.fake_server import ForkedProcess

ROOT = Path(__file__).parents[2]


class ServerProcess:
    """A server on one state folder; ``kill`` and ``start`` it as often as needed.

    Args:
        folder: gets ``state``, the log and the file that says it is ready.
        flags: of ``eztinker server``.
        program: module that is run; ``benchmarks`` have one of their own.
        has_fake_worker: one whose worker is arithmetic (``fake_server.py``): it starts without torch.

    Attributes:
        url: where it answers; the port stays the same over restarts.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        has_fake_worker: bool = False,
        program: str = "eztinker",
    ) -> None:
        self._program, self._has_fake_worker = program, has_fake_worker
        self._folder = folder
        self._flags = flags
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None
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
        self._process = self._new_process(
            [
                *("server", "--port", str(self._port), "--state-dir", str(self._folder / "state")),
                *("--ready-file", str(ready), *self._flags),
            ],
            {
                "HF_HUB_OFFLINE": "1",
                "EZTINKER_NUM_THREADS": "1",
                "EZTINKER_FAILPOINT": failpoint,
                "PYTHONPATH": os.pathsep.join(
                    filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
                ),
            },
        )
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

    def _new_process(
        self, arguments: list[str], environ: dict[str, str]
    ) -> subprocess.Popen[bytes] | ForkedProcess:
        log_path = self._folder / "server.log"
        if self._has_fake_worker:
            from tests.recovery.fake_server import ForkedProcess

            return ForkedProcess(arguments, environ, log_path)
        command = [sys.executable, "-m", self._program, *arguments]
        with log_path.open("ab") as log:
            return subprocess.Popen(command, stderr=log, stdout=log, env=os.environ | environ)

    def log(self) -> str:
        return (self._folder / "server.log").read_text(errors="replace")

    def cpu_s(self) -> float:
        """Processor time of the server and its present worker."""
        assert self._process is not None
        return _cpu_s(psutil.Process(self._process.pid)) + self.worker_cpu_s()

    def held_bytes(self) -> dict[str, int]:
        """Memory of ``server`` and ``worker`` that is theirs alone, without pages of files."""
        assert self._process is not None
        worker = self._worker()
        held = {"server": _anonymous_bytes(psutil.Process(self._process.pid))}
        return held if worker is None else held | {"worker": _anonymous_bytes(worker)}

    def worker_cpu_s(self) -> float:
        """Processor time of the present worker; 0 if there is none."""
        worker = self._worker()
        return 0.0 if worker is None else _cpu_s(worker)

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
        worker = self._worker()
        with contextlib.suppress(psutil.Error):  # one that has just died
            if worker is not None:
                worker.send_signal(signum)
                return True
        return False

    def _worker(self) -> psutil.Process | None:
        assert self._process is not None
        for child in psutil.Process(self._process.pid).children():
            with contextlib.suppress(psutil.Error):
                if any("eztinker.engine.worker" in part for part in child.cmdline()):
                    return child
        return None

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout=30)
        assert code is not None, "it did not stop within 30 s"
        return code

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


def _cpu_s(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return spent.user + spent.system


def _anonymous_bytes(process: psutil.Process) -> int:
    memory = process.memory_info()
    return memory.rss - getattr(memory, "shared", 0)
