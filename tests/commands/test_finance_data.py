"""Scripts 1, 2, 3 and 6 of the finance pipeline as documented, on nano and generated questions.

The scripts and ``configs/config.py`` are copied, and the settings edited by attribute, as a user does it.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eztinker.client.client import EZTinkerClient
from eztinker.client.embedded import EmbeddedServer
from eztinker.dataset.generated.finance import draw_finance
from tests.commands.conftest import environment

ROOT = Path(__file__).parents[2]
EDITS = """
TEACHER_CONFIG.model_name = JUDGE_CONFIG.model_name = MODEL_CONFIG.base_model = "nano"
TEACHER_CONFIG.quantization = JUDGE_CONFIG.quantization = MODEL_CONFIG.quantization = "none"
TEACHER_CONFIG.max_new_tokens = 64
TEACHER_CONFIG.max_attempts = 3
JUDGE_CONFIG.max_new_tokens = 2
FILTER_CONFIG.min_reasoning_chars = 0
EVAL_CONFIG.max_new_tokens = 32
"""


def write_questions(path: Path, num: int) -> None:
    rng, rows = random.Random(3), {}
    while len(rows) < num:
        problem = draw_finance(rng, "train")
        rows[problem.question] = {"question": problem.question, "gold_answer": problem.answer}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.values()), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finance-data")
    for name in ("scripts", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "configs" / "config.py").open("a", encoding="utf-8") as file:
        file.write(EDITS)
    write_questions(folder / "questions.jsonl", 40)
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, f"scripts/{arguments[0]}", *arguments[1:]]


def run(folder: Path, server: EmbeddedServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(server.base_url, HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        timeout=240,
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def prepared(folder: Path, running_server: EmbeddedServer) -> Path:
    """After stages 1 to 3."""
    flags = ("--local_data", "questions.jsonl", "--total_samples", "36")
    done = run(folder, running_server, "1_prepare_raw_data.py", *flags)
    assert done.returncode == 0, done.stderr
    done = run(folder, running_server, "2_distill_data.py")
    assert done.returncode == 0, done.stderr
    done = run(folder, running_server, "3_filter_data.py", "--no-judge")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_documented_files_have_the_documented_fields(prepared: Path) -> None:
    raw = rows_of(prepared / "dataraw" / "raw.jsonl")
    assert len(raw) == 36
    assert set(raw[0]) == {"id", "question", "gold_answer", "type", "source"}
    data = prepared / "dataprocessed"
    fields = {
        "distilled": {"id", "question", "gold_answer", "type", "teacher_output"},
        "sft": {"id", "prompt", "response", "type"},
        "rl": {"id", "prompt", "gold_answer", "type"},
        "test": {"id", "prompt", "gold_answer", "type"},
    }
    rows = {name: rows_of(data / f"{name}.jsonl") for name in fields}
    for name, expected in fields.items():
        assert rows[name], name
        assert set(rows[name][0]) == expected
    for row in rows["distilled"]:
        assert row["teacher_output"].startswith("<think>")
        assert row["teacher_output"].endswith("</answer>")
    assert not {row["prompt"] for row in rows["rl"]} & {row["prompt"] for row in rows["test"]}
    statistics = json.loads((data / "filter_stats.json").read_text(encoding="utf-8"))
    assert statistics["num_train"] == len(rows["sft"]) == len(rows["rl"])
    assert statistics["num_test"] == len(rows["test"])
    assert sum(statistics["reasons"].values()) == len(rows["distilled"])


def test_a_judge_that_writes_no_marks_is_counted_and_nothing_is_lost(
    prepared: Path, running_server: EmbeddedServer
) -> None:
    before = (prepared / "dataprocessed" / "sft.jsonl").read_bytes()
    done = run(prepared, running_server, "3_filter_data.py", "--overwrite")
    assert done.returncode == 1
    assert "judge_unreadable" in done.stderr
    assert "--no-judge" in done.stderr
    assert "Traceback" not in done.stderr
    assert (prepared / "dataprocessed" / "sft.jsonl").read_bytes() == before


def report(folder: Path, server: EmbeddedServer, *flags: str) -> dict[str, Any]:
    reports = folder / "reports"
    before = set(reports.glob("eval_*.json"))
    done = run(folder, server, "6_evaluate.py", *flags)
    assert done.returncode == 0, done.stderr
    (path,) = set(reports.glob("eval_*.json")) - before
    details = path.with_name(path.name.replace("eval_", "eval_details_")).with_suffix(".jsonl")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert len(rows_of(details)) == found["num_answers"]
    return found | {"outputs": [row["output"] for row in rows_of(details)]}


def test_evaluation_of_base_adapter_and_server(
    prepared: Path, running_server: EmbeddedServer
) -> None:
    missing = run(prepared, running_server, "6_evaluate.py")
    assert missing.returncode == 4
    assert "5_train_grpo.py" in missing.stderr
    base = report(prepared, running_server, "--eval_base")
    assert base["judge"]["num_unreadable"] == base["judge"]["num_judged"]
    assert base["judge"]["score"] is None
    low, high = base["accuracy_ci95"]
    assert low <= base["accuracy"] <= high
    # An adapter that has learnt nothing answers as its base does, and so does the model behind the OpenAI API.
    with EZTinkerClient(running_server.base_url) as client:
        run_id = client.create_run("nano", lora_rank=2)
        client.save_checkpoint(run_id, "fresh")
        client.download_checkpoint(run_id, "fresh", prepared / "ckpts" / "sft_lora")
    adapter = report(prepared, running_server, "--eval_sft", "--no-judge")
    assert adapter["outputs"] == base["outputs"]
    assert "judge" not in adapter
    is_adapter = run(
        prepared, running_server, "6_evaluate.py", "--use_vllm", "--model_path", "ckpts/sft_lora"
    )
    assert is_adapter.returncode == 2
    assert "adapter" in is_adapter.stderr
    settings = prepared / "configs" / "served.py"
    text = (prepared / "configs" / "config.py").read_text(encoding="utf-8")
    settings.write_text(f'{text}EVAL_CONFIG.vllm_url = "{running_server.base_url}"\n', "utf-8")
    flags = ("--use_vllm", "--model_path", "nano", "--no-judge", "--config", "configs/served.py")
    served = report(prepared, running_server, *flags)
    assert served["outputs"] == base["outputs"]
