"""The command lines of the founding documents about rejection sampling, as they are written there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eztinker.client.embedded import EmbeddedServer
from eztinker.dataset.generated import GeneratedMathDataset
from eztinker.recipes.rejection_arguments import rejection_parser
from tests.commands.conftest import environment
from tests.conftest import DOCUMENTED_MODEL
from tests.e2e.recipes import long_form

ROOT = Path(__file__).parents[2]
NANO = ROOT / "src" / "eztinker" / "assets" / "nano"
Line = Callable[[str], subprocess.CompletedProcess[str]]

DEFAULTS = {
    "max_samples": 100,
    "num_candidates": 4,
    "epochs": 3,
    "learning_rate": 2e-4,
    "temperature": 0.8,
    "eval_size": 100,
    "checkpoint": False,
    "output_dir": Path("data"),
    "reset_buffer": False,
    "model": "M",
    "data_path": None,
    "base_url": None,
}
"""What the documents promise; further flags may have any default that keeps these lines working."""


def test_flags_and_defaults_are_those_of_the_documents():
    flags = vars(rejection_parser(None, "M").parse_args([]))
    assert {name: flags[name] for name in DEFAULTS} == DEFAULTS


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """nano under the name that the scripts ask for."""
    settings = {"aliases": {DOCUMENTED_MODEL: str(NANO)}, "num_threads": 1}
    started = EmbeddedServer([DOCUMENTED_MODEL], settings=settings)
    yield started
    started.close()


@pytest.fixture
def line(server: EmbeddedServer, tmp_path: Path) -> Line:
    """Run a line in a folder that looks like the checkout, with a small GSM8K and without a network."""
    for path in [*ROOT.glob("*.py"), ROOT / "examples"]:
        (tmp_path / path.name).symlink_to(path)
    data = tmp_path / "sets" / "gsm8k"
    data.mkdir(parents=True)
    for split, size in (("train", 8), ("test", 5)):
        rows = (
            {k: row[k] for k in ("question", "answer")} for row in GeneratedMathDataset(split, size)
        )
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    uv = tmp_path / "bin" / "uv"  # "uv run X" is X in the environment that is active
    uv.parent.mkdir()
    uv.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    uv.chmod(0o755)
    given = environment(server.base_url, EZTINKER_DATA_DIR=str(data.parent), HF_HUB_OFFLINE="1")
    given["PATH"] = f"{uv.parent}{os.pathsep}{given['PATH']}"

    def run(text: str) -> subprocess.CompletedProcess[str]:
        text = text.replace("http://localhost:8000", server.base_url)
        return subprocess.run(
            text, shell=True, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=250
        )

    return run


def test_rejection_sampling_on_gsm8k(line: Line, server: EmbeddedServer, tmp_path: Path):
    done = line(
        "uv run python rejection_sft_demo.py --max-samples 50 --num-candidates 4 --epochs 3"
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "data" / "rejection_sft_results.json").read_text())
    assert len(results["training_metrics"]) == 3
    assert results["buffer_size"] == 8
    assert {"config", "training_metrics", "evaluation_metrics", "buffer_size"} <= set(results)
    run_id = results["config"]["run_id"]
    assert results["config"]["lora_rank"] == 1
    saved = line(
        f"curl -s -X POST http://localhost:8000/v1/runs/{run_id}/save \\\n"
        '  -H "Content-Type: application/json" \\\n'
        '  -d \'{"name": "test_ckpt"}\''
    )
    assert json.loads(saved.stdout)["status"] == "completed"


@long_form
def test_the_whole_example(line: Line, server: EmbeddedServer, tmp_path: Path):
    whole = line(
        """uv run python rejection_sft_demo.py \\
  --max-samples 100 \\
  --num-candidates 8 \\
  --epochs 3 \\
  --eval-size 200 \\
  --checkpoint \\
  --temperature 0.7 \\
  --learning-rate 3e-4 --output-dir other"""
    )
    assert whole.returncode == 0, whole.stderr
    other = json.loads((tmp_path / "other" / "rejection_sft_results.json").read_text())["config"]
    folder = server.state_dir / "checkpoints" / other["run_id"]
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"rejection_sft_epoch_{k}" for k in (1, 2, 3)]


@long_form
@pytest.mark.parametrize(
    "text",
    [
        "uv run python rejection_sft_demo_sharegpt.py \\\n    --dataset-type sharegpt \\\n"
        "    --data-path examples/sharegpt_dialect_b.json \\\n    --max-samples 50 \\\n    --epochs 3",
        "python rejection_sft_demo.py --max-samples 25 --num-candidates 2",
        "python rejection_sft_demo.py --max-samples 50",
    ],
)
def test_the_other_lines_as_written(line: Line, tmp_path: Path, text: str):
    done = line(text)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "rejection_sft_results.json").is_file()


def test_rejection_sampling_on_conversations(line: Line, tmp_path: Path):
    done = line(
        """uv run python rejection_sft_demo_sharegpt.py \\
    --dataset-type sharegpt \\
    --data-path examples/sharegpt_dialect_b.json \\
    --max-samples 50 \\
    --epochs 3 --max-new-tokens 24 --similarity rouge_l --similarity-threshold 0.2 --only-similar"""
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "data" / "rejection_sft_results.json").read_text())
    assert "rouge_l" in done.stderr
    rows = (tmp_path / "data" / "rejection_buffer.jsonl").read_text().splitlines()
    grades = [json.loads(row) for row in rows]
    assert all(row["is_correct"] == (row["best_score"] >= 0.2) for row in grades)
    assert results["training_metrics"][0]["num_trained"] <= sum(row["is_correct"] for row in grades)


@pytest.mark.parametrize(
    "words",
    [
        "--scorer judge",
    ],
)
def test_a_scorer_without_its_model_is_refused(line: Line, words: str):
    done = line(f"uv run python rejection_sft_demo.py {words}")
    assert done.returncode == 2
    assert "go together" in done.stderr
    assert "Traceback" not in done.stderr
