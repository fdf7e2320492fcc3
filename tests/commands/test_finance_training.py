"""Scripts 4, 5, 7 and 8 of the finance pipeline as documented, on nano and a handful of rows."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from peft import PeftConfig
from safetensors.numpy import load_file

from eztinker.client.embedded import EmbeddedServer
from eztinker.dataset.generated.accounts import draw_account
from tests.commands.conftest import environment

SCRIPTS = Path(__file__).parents[2] / "scripts"
SETTINGS = """
from eztinker.recipes.finance.parts import *

MODEL_CONFIG, JUDGE_CONFIG = ModelConfig(), JudgeConfig()
SFT_CONFIG, GRPO_CONFIG, WANDB_CONFIG = SFTConfig(), GRPOConfig(), WandbConfig()
MODEL_CONFIG.base_model = JUDGE_CONFIG.model_name = "nano"
JUDGE_CONFIG.max_new_tokens = 8
SFT_CONFIG.num_train_epochs = 6
SFT_CONFIG.learning_rate = 5e-3
GRPO_CONFIG.max_steps = 2
GRPO_CONFIG.prompts_per_step = 8
GRPO_CONFIG.max_new_tokens = 64
WANDB_CONFIG.enabled = False
EVAL_CONFIG = EvaluationConfig()
EVAL_CONFIG.max_new_tokens = 64
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stage 3 leaves, and a settings file."""
    folder = tmp_path_factory.mktemp("finance")
    rng = random.Random(3)
    problems = [draw_account(rng) for _ in range(24)]
    shared = [{"id": f"q{i}", "prompt": p.question, "type": "financial_calculation"} for i, p in enumerate(problems)]  # fmt: skip
    rows = {
        "sft": [{"response": f"<think>{p.solution}</think><answer>{p.answer}</answer>"} for p in problems],
        "rl": [{"gold_answer": p.answer} for p in problems],
        "test": [{"gold_answer": p.answer} for p in problems[:4]],
    }  # fmt: skip
    (folder / "dataprocessed").mkdir()
    for name, own in rows.items():
        text = "".join(json.dumps(a | b) + "\n" for a, b in zip(shared, own, strict=False))
        (folder / "dataprocessed" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "settings.py").write_text(SETTINGS, encoding="utf-8")
    return folder


def run(
    folder: Path, server: EmbeddedServer | None, script: str, *flags: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / script), "--config", "settings.py", *flags],
        cwd=folder,
        env=environment(server.base_url if server else None),
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def trained(folder: Path, running_server: EmbeddedServer) -> Path:
    """The folder after stages 4 and 5."""
    for script, flags in (("4_train_sft.py", ()), ("5_train_grpo.py", ("--no-judge",))):
        done = run(folder, running_server, script, "--quantization", "none", *flags)
        assert done.returncode == 0, done.stderr
    return folder


def test_both_adapters_are_peft_folders_and_differ(trained: Path) -> None:
    weights = {}
    for name in ("sft_lora", "grpo_lora"):
        folder = trained / "ckpts" / name
        config = PeftConfig.from_pretrained(str(folder))
        assert (config.r, config.lora_alpha) == (16, 32)  # type: ignore[attr-defined]
        assert config.base_model_name_or_path == "nano"
        weights[name] = load_file(folder / "adapter_model.safetensors")
    sft, grpo = weights["sft_lora"], weights["grpo_lora"]
    assert sft.keys() == grpo.keys()
    assert any((sft[key] != grpo[key]).any() for key in sft)


def test_logs_have_the_loss_and_the_parts_of_the_reward(trained: Path) -> None:
    sft = (trained / "logs" / "sft_train.log").read_text(encoding="utf-8")
    grpo = (trained / "logs" / "grpo_train.log").read_text(encoding="utf-8")
    assert "step 9: train/loss=" in sft
    for part in ("reward", "format_reward", "accuracy_reward", "rule_reward", "kl"):
        assert f"train/{part}=" in grpo
    folder = trained / "logs" / "grpo_train" / "rollouts"
    lines = (folder / "step_000001.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 8  # prompts_per_step
    for line in lines:
        for rollout in json.loads(line)["rollouts"]:
            grade = rollout["grade"]
            expected = 0.3 * grade["format_reward"] + 0.7 * grade["accuracy_reward"]
            assert rollout["reward"] == pytest.approx(expected)


def test_the_ablation_compares_on_the_held_out_questions(
    trained: Path, running_server: EmbeddedServer
) -> None:
    flags = ("--quantization", "none", "--no-judge", "--arms", "base,sft,sft_grpo")
    done = run(trained, running_server, "8_ablation_study.py", *flags)
    assert done.returncode == 0, done.stderr
    (path,) = (trained / "reports").glob("ablation_summary_*.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert list(report["arms"]) == ["base", "sft", "sft_grpo"]
    for arm in report["arms"].values():
        low, high = arm["accuracy_ci95"]
        assert 0 <= low <= arm["accuracy"] <= high <= 1
        assert arm["num_questions"] == 4
    assert report["arms"]["sft_grpo"]["kl_last"] is not None
    assert Path(trained / report["plot"]).is_file()


def test_deploy_merges_serves_and_answers(trained: Path) -> None:
    merged = run(trained, None, "7_deploy.py", "--action", "merge")
    assert merged.returncode == 0, merged.stderr
    assert (trained / "ckpts" / "merged_model" / "model.safetensors").is_file()
    _serve_and_ask(trained)


def _serve_and_ask(folder: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "7_deploy.py"), "--config", "settings.py"]
    log = folder / "simple.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--action", "simple", "--port", "0"],
            cwd=folder,
            env=environment(),
            stderr=output,
        )
    try:
        url = _address(log, server)
        port = url.rpartition(":")[2]
        asked = run(folder, None, "7_deploy.py", "--action", "test", "--port", port)
        assert asked.returncode == 0, asked.stderr
        assert "model: ckpts/merged_model" in asked.stdout
        assert "answer: " in asked.stdout
        _stream(url)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def _address(log: Path, server: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if "ready at" in line:
                return line.rpartition(" ")[2]
        time.sleep(0.05)
    raise AssertionError(log.read_text(encoding="utf-8"))


def _stream(url: str) -> None:
    """The document's request, streamed, with usage."""
    body = {
        "model": "ckpts/merged_model",
        "messages": [{"role": "user", "content": "某公司2023年营收1000万元，请计算2022年营收。"}],
        "max_tokens": 8,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, trust_env=False) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    usage = json.loads(lines[-2])["usage"]
    assert usage["completion_tokens"] <= 8
