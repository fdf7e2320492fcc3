"""The documented scripts as a user runs them: processes, a real server, the built-in model, no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eztinker.client.embedded import EmbeddedServer
from eztinker.dataset.generated import GeneratedMathDataset
from eztinker.rl.buffer import FIELDS, load_buffer

ROOT = Path(__file__).parents[2]
SMALL = [
    "--model",
    "nano",
    "--max-samples",
    "6",
    "--num-candidates",
    "2",
    "--eval-size",
    "5",
    "--max-new-tokens",
    "40",
]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    started = EmbeddedServer(["nano"], settings={"num_threads": 1})
    yield started
    started.close()


@pytest.fixture(scope="module")
def gsm8k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in GSM8K's own format, with generated problems."""
    folder = tmp_path_factory.mktemp("gsm8k")
    for split in ("train", "test"):
        rows = GeneratedMathDataset(split, 8)
        lines = [json.dumps({k: row[k] for k in ("question", "answer")}) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


def script(
    name: str, *flags: str | Path, base_url: str, cwd: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EZTINKER_")}
    offline = {"HF_HUB_OFFLINE": "1", "EZTINKER_LANG": "en", "EZTINKER_BASE_URL": base_url}
    return subprocess.run(
        [sys.executable, str(ROOT / name), *map(str, flags)],
        cwd=cwd,
        env=kept | offline | more,
        capture_output=True,
        text=True,
        timeout=110,
    )


def test_rejection_sft_demo_writes_its_files_and_continues(
    server: EmbeddedServer, gsm8k: Path, tmp_path: Path
):
    flags = [*SMALL, "--data-path", gsm8k, "--checkpoint"]
    first = script(
        "rejection_sft_demo.py", *flags, "--epochs", "1", base_url=server.base_url, cwd=tmp_path
    )
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "data"
    rows = load_buffer(folder / "rejection_buffer.jsonl")
    assert len(rows) == 6
    assert set(FIELDS) <= set(rows[0])
    results = json.loads((folder / "rejection_sft_results.json").read_text())
    assert results["buffer_size"] == 6
    run_id = results["config"]["run_id"]
    assert run_id in first.stdout
    assert (folder / "rejection_sft.png").is_file()
    checkpoints = server.state_dir / "checkpoints" / run_id
    assert [path.name for path in checkpoints.iterdir()] == ["rejection_sft_epoch_1"]

    second = script(
        "rejection_sft_demo.py", *flags, "--epochs", "2", base_url=server.base_url, cwd=tmp_path
    )
    assert second.returncode == 0, second.stderr
    assert f"Continuing run {run_id} after epoch 1" in second.stderr
    results = json.loads((folder / "rejection_sft_results.json").read_text())
    assert [epoch["epoch"] for epoch in results["training_metrics"]] == [1, 2]


def test_sharegpt_script_trains_on_conversations(server: EmbeddedServer, tmp_path: Path):
    turns = [{"from": "human", "value": "Say hello."}, {"from": "gpt", "value": "Hello to you."}]
    chat = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好，朋友。"}]
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([{"conversations": turns}, {"messages": chat}] * 3))
    done = script(
        "rejection_sft_demo_sharegpt.py",
        *("--dataset-type", "sharegpt", "--data-path", path, "--max-length", "256"),
        *SMALL,
        *("--epochs", "1", "--output-dir", tmp_path / "out"),
        base_url=server.base_url,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "rejection_sft_results.json").read_text())
    (epoch,) = results["training_metrics"]
    assert epoch["num_trained"] == epoch["num_examples"] == 5
    assert epoch["mean_loss"] > 0
    assert "word_f1" in done.stderr


def test_mini_demo_tells_every_step_in_both_languages(
    server: EmbeddedServer, gsm8k: Path, tmp_path: Path
):
    flags = ("--model", "nano", "--data-path", gsm8k)
    done = script(
        "run_mini_demo.py", *flags, base_url=server.base_url, cwd=tmp_path, EZTINKER_LANG="zh"
    )
    assert done.returncode == 0, done.stderr
    assert "处理样本 2/2..." in done.stdout
    assert done.stdout.count("是否训练: True") == 2
    assert "生成结果: What is 2 + 2?" in done.stdout


def test_training_check_falls_back_to_a_tiny_gpt2(server: EmbeddedServer, tmp_path: Path):
    done = script("test_training.py", base_url=server.base_url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "('c_attn', 'c_proj')" in done.stdout
    assert "Batches: 1" in done.stdout
    assert "Status: optimizer_step_completed" in done.stdout


def test_check_without_a_server(tmp_path: Path):
    done = script("test_rejection_sft.py", base_url="http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok: ") == 8


def test_example_of_the_client(server: EmbeddedServer, tmp_path: Path):
    done = script("examples/example_client_api.py", base_url=server.base_url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    http, client = done.stdout.splitlines()[-2:]
    assert http.removeprefix("HTTP:   ") == client.removeprefix("client: ")


@pytest.mark.parametrize("name", ["rejection_sft_demo.py", "run_mini_demo.py", "test_training.py"])
def test_without_a_server_the_scripts_say_how_to_start_one(name: str, tmp_path: Path):
    done = script(name, base_url="http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 3
    assert "eztinker server" in done.stderr
    assert "Traceback" not in done.stderr
