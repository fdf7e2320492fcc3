"""The program ``eztinker`` with the fake worker: a whole server that starts without torch.

For tests that end the server's process hundreds of times and do not ask what the worker does. Each life is a
process of its own, forked from one that has imported everything, so that a start costs no imports.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

# Imported for the processes forked from this one.
import alembic.command
import alembic.runtime.migration
import sqlalchemy.dialects.sqlite
import uvicorn.lifespan.off

import eztinker.cli.server
from eztinker import launch
from eztinker.cli.main import run
from tests.unit.engine.fake_worker import World

__all__ = ["ForkedProcess", "alembic", "eztinker", "sqlalchemy", "uvicorn"]

_NURSERY = multiprocessing.get_context("forkserver")
_NURSERY.set_forkserver_preload([__name__])


class ForkedProcess:
    """One life, used as a ``subprocess.Popen``.

    Args:
        arguments: of ``eztinker``.
        environ: variables beside those of this process.
        log: file that gets what it prints.
    """

    def __init__(self, arguments: list[str], environ: dict[str, str], log: Path) -> None:
        self._process = _NURSERY.Process(
            target=_live, args=(arguments, environ, str(log)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Exit code, minus the signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end, or so many seconds."""
        self._process.join(timeout)
        return self._process.exitcode

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def send_signal(self, signum: int) -> None:
        """Any signal."""
        os.kill(self.pid, signum)


def _live(arguments: list[str], environ: dict[str, str], log: str) -> None:
    os.environ.update(environ)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    world = World()
    launch.make_executor_factory = lambda _config: world.make_executor
    sys.argv = ["eztinker", *arguments]
    run()
