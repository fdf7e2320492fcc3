"""Who may import whom: the contracts of pyproject.toml, and what a client never pays for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "peft", "sqlalchemy", "uvicorn", "fastapi", "matplotlib")


def test_import_contracts_hold() -> None:
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", ["eztinker", "eztinker.config", "eztinker.cli.main"])
def test_import_stays_light(module: str, tmp_path: Path) -> None:
    """In a fresh interpreter, away from the checkout."""
    command = (
        f"import sys, {module}\n"
        f"found = sorted({{name.partition('.')[0] for name in sys.modules}} & set({HEAVY!r}))\n"
        "print(*found)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == []
