"""The three command lines of the legal pipeline as documented, on nano and generated cases."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eztinker.client.embedded import EmbeddedServer
from eztinker.recipes.lawshift.generated import write_generated
from tests.commands.conftest import environment

ROOT = Path(__file__).parents[2]
SAMPLING = [
    str(ROOT / "train" / "rejection_sampling.py"),
    *("--model_path", "nano", "--training_data", "LawShift/training_set.json"),
    *("--articles", "LawShift/articles_original.json", "--num_samples", "4"),
    *("--temperature", "0.8", "--top_p", "0.95", "--max_new_tokens", "24"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lawshift")
    write_generated(folder / "LawShift", num_train=16, num_test=2, num_held_out=2, seed=5)
    return folder


def run(folder: Path, server: EmbeddedServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(server.base_url),
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def sampled(folder: Path, running_server: EmbeddedServer) -> Path:
    done = run(folder, running_server, *SAMPLING, "--output", "train/sampled_data.json")
    assert done.returncode == 0, done.stderr
    return folder / "train" / "sampled_data.json"


def test_sampling_writes_the_documented_rows_and_statistics(sampled: Path) -> None:
    rows = json.loads(sampled.read_text(encoding="utf-8"))
    assert set(rows[0]) == {
        "fact", "relevant_articles", "charge", "prison_time", "response", "num_correct_for_this_sample",
    }  # fmt: skip
    assert len({(row["fact"], row["response"]) for row in rows}) == len(rows)
    for row in rows:
        siblings = [other for other in rows if other["fact"] == row["fact"]]
        assert row["num_correct_for_this_sample"] == len(siblings)
    (path,) = sampled.parent.glob("sampling_stats_*.json")
    statistics = json.loads(path.read_text(encoding="utf-8"))
    assert statistics["total_samples"] == 16
    assert statistics["total_accepted"] == len(rows) == statistics["reasons"]["correct"]
    assert statistics["total_generated"] + statistics["duplicates_removed"] == 64
    assert statistics["acceptance_rate"] == len(rows) / statistics["total_generated"]
    solved = len({row["fact"] for row in rows})
    assert statistics["samples_with_no_correct"] == 16 - solved
    assert statistics["avg_correct_per_sample"] == len(rows) / 16


def test_a_killed_sampling_continues_without_duplicates(
    folder: Path, sampled: Path, running_server: EmbeddedServer
) -> None:
    command = [sys.executable, *SAMPLING, "--output", "again.json"]
    killed = subprocess.Popen(
        command, cwd=folder, env=environment(running_server.base_url), stderr=subprocess.DEVNULL
    )
    journal = folder / ".again.json.journal.jsonl"
    with killed:
        while killed.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= 4:
                killed.kill()
            time.sleep(0.005)
    done = run(folder, running_server, *SAMPLING, "--output", "again.json")
    is_finished = "finished" in done.stderr  # the kill may have come too late
    assert done.returncode == (2 if is_finished else 0), done.stderr
    assert (folder / "again.json").read_bytes() == sampled.read_bytes()


def test_training_and_evaluation(
    folder: Path, sampled: Path, running_server: EmbeddedServer
) -> None:
    trained = run(
        folder, running_server, str(ROOT / "train" / "sft_train.py"),
        *("--model_path", "nano", "--sampled_data", "train/sampled_data.json"),
        *("--articles_path", "LawShift/articles_original.json", "--output_dir", "train/checkpoints"),
        *("--num_train_epochs", "2", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"),
        *("--learning_rate", "2e-4", "--lora_r", "4", "--save_steps", "2", "--report_to", "none", "--no_4bit"),
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    (experiment,) = (folder / "train" / "checkpoints").glob("sft_*")
    assert (experiment / "final_model" / "adapter_model.safetensors").is_file()
    assert json.loads((experiment / "final_model" / "adapter_config.json").read_text())["r"] == 4
    saved = {path.name for path in experiment.glob("checkpoint-*")}
    num_steps = len((experiment / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    assert saved == {f"checkpoint-{step}" for step in range(2, num_steps + 1, 2)}
    run_id = json.loads((experiment / "state.json").read_text())["run_id"]
    evaluate = str(ROOT / "eval" / "evaluate.py")
    final = str((experiment / "final_model").relative_to(folder))
    lines = [evaluate, "--model_path", final, "--base_model", "nano"]
    lines += ["--max_new_tokens", "24", "--output_dir", "results/tuned", "--test_dir"]
    one = run(folder, running_server, *lines, "LawShift/term_up")
    assert one.returncode == 0, one.stderr
    assert not (folder / "results" / "tuned" / "term_down_results.json").exists()
    at_home = [evaluate, "--model_path", f"{run_id}@final", "--max_new_tokens", "24"]
    same = run(
        folder,
        running_server,
        *at_home,
        "--output_dir",
        "results/same",
        "--test_dir",
        "LawShift/term_up",
    )
    assert same.returncode == 0, same.stderr
    texts = [
        [answer["text"] for one in results["predictions"]["poisoned"] for answer in one["answers"]]
        for results in (
            json.loads((folder / "results" / name / "term_up_results.json").read_text())
            for name in ("tuned", "same")
        )
    ]
    assert texts[0] == texts[1]  # the folder and the server's checkpoint are one adapter
    every = run(folder, running_server, *lines, "LawShift")
    assert every.returncode == 0, every.stderr
    results = json.loads((folder / "results" / "tuned" / "term_up_results.json").read_text())
    assert results["label"] == "TU"
    assert [p["case_id"] for p in results["predictions"]["poisoned"]] == ["0", "1"]
    summary = (folder / "results" / "tuned" / "summary.md").read_text(encoding="utf-8")
    assert all(
        label in summary for label in ("| V |", "| NV |", "| TU |", "| TD |", "| XT |", "| NX |")
    )


TRAINING = [
    str(ROOT / "train" / "sft_train.py"),
    *("--model_path", "nano", "--sampled_data", "train/sampled_data.json"),
    *("--articles_path", "LawShift/articles_original.json", "--output_dir", "defaults"),
    *("--num_train_epochs", "15", "--lora_r", "4", "--save_steps", "2", "--save_total_limit", "1"),
]


def test_a_killed_training_with_defaults_continues_and_its_merged_model_is_judged(
    folder: Path, sampled: Path, running_server: EmbeddedServer
) -> None:
    pytest.importorskip("bitsandbytes", reason="NF4 is the default, and its library is not here")
    killed = subprocess.Popen(
        [sys.executable, *TRAINING], cwd=folder, env=environment(running_server.base_url), stderr=subprocess.DEVNULL
    )  # fmt: skip
    with killed:
        while killed.poll() is None and not list((folder / "defaults").glob("sft_*/checkpoint-*")):
            time.sleep(0.02)
        killed.kill()
    assert not list((folder / "defaults").glob("sft_*/final_model"))
    done = run(folder, running_server, *TRAINING, "--resume")
    assert done.returncode == 0, done.stderr
    (experiment,) = (folder / "defaults").glob("sft_*")
    assert len(list(experiment.glob("checkpoint-*"))) == 1
    assert list((experiment / "logs").glob("events.*"))
    steps = [json.loads(line) for line in (experiment / "metrics.jsonl").read_text().splitlines()]
    numbers = [line["step"] for line in steps if "loss" in line]
    assert numbers == list(range(1, len(numbers) + 1))
    merge = ["-m", "eztinker", "merge", str(experiment / "final_model"), "merged"]
    merged = run(folder, running_server, *merge, "--quantization", "nf4")
    assert merged.returncode == 0, merged.stderr
    judged = run(
        folder, running_server, str(ROOT / "eval" / "evaluate.py"), "--model_path", str(folder / "merged"),
        *("--test_dir", "LawShift/term_up", "--max_new_tokens", "8", "--output_dir", "results/merged"),
    )  # fmt: skip
    assert judged.returncode == 0, judged.stderr


def test_mistakes_are_named(folder: Path, running_server: EmbeddedServer) -> None:
    def fails(*arguments: str) -> tuple[int, str]:
        done = run(folder, running_server, *arguments)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    code, said = fails(*SAMPLING[:3], "--training_data", "none.json", "--output", "x.json")
    assert (code, "none.json" in said) == (4, True)
    wrong = [{"fact": "x", "relevant_articles": [], "charge": "盗窃", "prison_time": "很久"}]
    (folder / "wrong.json").write_text(json.dumps(wrong), encoding="utf-8")
    code, said = fails(*SAMPLING, "--training_data", "wrong.json", "--output", "x.json")
    assert (code, "wrong.json:1: prison_time" in said) == (2, True)
    missing = [{"fact": "x", "relevant_articles": ["1"], "charge": "盗窃", "prison_time": 700}]
    (folder / "missing.json").write_text(json.dumps(missing), encoding="utf-8")
    code, said = fails(
        *SAMPLING, "--training_data", "missing.json", "--strict", "--output", "m.json"
    )
    assert (code, "1" in said) == (4, True)
    code, said = fails(*SAMPLING, "--training_data", "missing.json", "--output", "none/m.json")
    assert code == 1
    assert "nothing to train on" in said
    (path,) = (folder / "none").glob("sampling_stats_*.json")
    statistics = json.loads(path.read_text(encoding="utf-8"))
    assert (statistics["total_accepted"], statistics["cases_with_missing_articles"]) == (0, 1)
    assert not (folder / "none" / "m.json").exists()
    code, said = fails(*SAMPLING, "--num_sample", "3", "--tolerance", "1", "--bands", "36")
    assert code == 2
