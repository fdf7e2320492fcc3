"""A peer in a process of its own, driven one step at a time.

Knows nothing of what the peer computes; speaks the lines of ``trl_peer.py``. Called by the benchmarks
beside it. ``environment`` is what every peer gets: its threads wait as its own libraries have it by default,
whatever this process was told.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What ``engine/worker/process.py`` sets for our own worker."""


def environment() -> dict[str, str]:
    """Of a peer's process: this one's variables without those that say how threads wait for each other."""
    return {name: value for name, value in os.environ.items() if name not in _WAITING}


class Peer:
    """A process that does a step for each line it reads.

    Args:
        python: interpreter of the environment that has what the peer needs.
        script: file beside this one.
        words: of its command line.
        work: sent as its first line.
        num_threads: of its tensor library.
        variables: further ones of its environment.

    Raises:
        RuntimeError: it did not start, with the last line it printed.
    """

    def __init__(
        self,
        python: str,
        script: str,
        words: list[str],
        work: dict[str, Any],
        num_threads: int,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._log = next(Path(word).parent for word in words if "/" in word) / f"{script}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, str(Path(__file__).with_name(script)), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._log.parent,
                env={
                    **environment(),
                    "OMP_NUM_THREADS": str(num_threads),
                    "HF_HUB_OFFLINE": "1",
                    "PYTHONPATH": "",
                    **(variables or {}),
                },
            )
        self._send(json.dumps(work))
        self.resident_bytes: int = self._answer()["resident_bytes"]

    def step(self, work: Any = "step") -> dict[str, Any]:
        """Do one; seconds and memory.

        Args:
            work: what this one is, for a peer that does not do the same each time.
        """
        self._send(work if isinstance(work, str) else json.dumps(work))
        return self._answer()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=600)

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise RuntimeError(f"the peer ended: {said[-1]}")
        return json.loads(line)


def obstacle(python: str, modules: tuple[str, ...]) -> str | None:
    """Why a peer cannot run with an interpreter; None when it can."""
    program = "; ".join(f"import {module}" for module in modules)
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines() or ["no word"]
    return f"{python} cannot import {', '.join(modules)}: {said[-1]}"
