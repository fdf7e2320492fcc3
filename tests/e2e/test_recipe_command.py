"""``eztinker recipe`` as a user types it: plans, refusals, a server that is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from eztinker.client.embedded import EmbeddedServer
from tests.commands.conftest import environment


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    started = EmbeddedServer(["nano"], settings={"num_threads": 1})
    yield started
    started.close()


def command(base_url: str | None, folder: Path, words: str):
    import subprocess

    return subprocess.run(
        f"eztinker recipe {words}", shell=True, cwd=folder, env=environment(base_url), capture_output=True,
        text=True, timeout=100,
    )  # fmt: skip


def test_a_dry_run_has_plan_memory_and_the_first_batch(server: EmbeddedServer, tmp_path: Path):
    words = "sft dataset_name=generated-math max_train_samples=16 max_eval_samples=4"
    done = command(server.base_url, tmp_path, f"{words} --dry-run --json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["facts"]["steps"] == 2
    assert found["facts"]["memory_estimate"].endswith("MB")
    assert found["settings"]["learning_rate"] == 2e-4
    assert "⟦" in found["first_batch"][0]
    assert list(tmp_path.iterdir()) == []


def test_a_dead_server_says_how_to_continue(tmp_path: Path):
    (tmp_path / "state.json").write_text(json.dumps({"recipe": "sft"}))
    words = "sft dataset_name=generated-math output_dir=."
    done = command("http://127.0.0.1:9", tmp_path, words)
    assert done.returncode == 3
    assert "eztinker server" in done.stderr
    assert "Run the same command again to continue" in done.stderr
