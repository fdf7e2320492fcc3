"""``eztinker demo`` as it is shipped: nothing but this machine, accuracy up by 30 points."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = shutil.which("eztinker", path=str(Path(sys.executable).parent)) or "eztinker"
EXPECTED_GAIN = 0.30


def demo(*flags: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EZTINKER_")}
    return subprocess.run(
        [PROGRAM, "demo", *flags],
        cwd=cwd,
        env=kept | {"HF_HUB_OFFLINE": "1", "EZTINKER_LANG": "en", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=580,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo_raises_the_accuracy_on_held_out_problems(tmp_path: Path):
    done = demo("--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"] == "nano"
    assert report["eval_size"] >= 100
    assert report["accuracy_after"] - report["accuracy_before"] >= EXPECTED_GAIN
    assert report["sampled_accuracy_after"] > report["sampled_accuracy_before"]
    assert report["accuracy_before_ci95"][1] < report["accuracy_after_ci95"][0]
    assert (tmp_path / report["plot"]).read_bytes().startswith(b"\x89PNG")


def test_small_demo_ends_with_a_table_and_the_next_command(tmp_path: Path):
    flags = "--max-samples 8 --num-candidates 2 --epochs 1 --eval-size 8 --seed 3 --output-dir out"
    done = demo(*flags.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "->" in done.stdout
    assert "8 held-out problems" in done.stdout
    assert done.stdout.rstrip().endswith(
        "eztinker demo --model Qwen/Qwen2-0.5B-Instruct --dataset gsm8k"
    )
    assert (tmp_path / "out" / "rejection_sft.png").is_file()
