"""Runs documented command lines as a user does: as processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eztinker.client.embedded import EmbeddedServer

PROGRAM = shutil.which("eztinker", path=str(Path(sys.executable).parent)) or "eztinker"

Shell = Callable[..., subprocess.CompletedProcess[str]]


def environment(base_url: str | None = None, **more: str) -> dict[str, str]:
    """This process's variables, with the program found first and nothing of a user's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EZTINKER_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    plain = {"PATH": path, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}
    address = {} if base_url is None else {"EZTINKER_BASE_URL": base_url}
    return {**kept, **plain, **address, **more}


@pytest.fixture
def shell(running_server: EmbeddedServer, tmp_path: Path) -> Shell:
    """Run a line in a shell whose ``eztinker`` talks to the running server."""

    def run_line(line: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            line,
            shell=True,
            cwd=tmp_path,
            env=environment(running_server.base_url, **more),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run_line
