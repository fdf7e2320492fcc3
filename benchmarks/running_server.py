"""A real server as a process of its own, for as long as a benchmark needs it.

Knows nothing of what is measured. Called by the benchmarks beside it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

START_TIMEOUT_S = 120.0


@contextlib.contextmanager
def running(
    folder: Path,
    models: Mapping[str, Path],
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Start a server that ends with the block; yields its URL.

    Args:
        folder: for its state and log.
        models: public name -> folder of each base model; the first is the default model.
        options: further words of its command line.
        environment: further variables.
    """
    ready = folder / "ready"
    command = [sys.executable, "-m", "eztinker", "server", "--port", "0", "--exit-with-parent"]
    command += ["--ready-file", str(ready), "--state-dir", str(folder / "state"), *options]
    for name, model_folder in models.items():
        command += ["--alias", f"{name}={model_folder}", "--model", name]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # the server ends when this pipe does
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
        )
        try:
            until(lambda: ready.exists() or process.poll() is not None)
            if not ready.exists():
                raise SystemExit((folder / "server.log").read_text(errors="replace"))
            yield ready.read_text().strip()
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=30)


def until(condition: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait for something a server does; give up after ``timeout_s``."""
    deadline_s = time.perf_counter() + timeout_s
    while not condition():
        if time.perf_counter() > deadline_s:
            raise SystemExit(f"The server was not ready within {timeout_s:.0f} s.")
        time.sleep(0.005)
