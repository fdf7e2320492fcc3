"""The SFT recipe on nano: it lowers the held-out loss, stops, continues, and refuses what it cannot use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eztinker import EZTinkerClient
from eztinker.errors import EZTinkerError, InvalidRequestError, NotFoundError
from eztinker.recipes.experiment.settings import make_settings
from eztinker.recipes.sft import SFTConfig, plan, run
from tests.e2e.recipes import InterruptingProgress, Interruption, lines, long_form, same_lines


@pytest.fixture(scope="module")
def client() -> Iterator[EZTinkerClient]:
    with EZTinkerClient.embedded("nano", num_threads=1) as started:
        yield started


def settings(folder: Path, **more: object) -> SFTConfig:
    given = {
        "dataset_name": "generated-math",
        "max_train_samples": 96,
        "max_eval_samples": 16,
        "learning_rate": 2e-3,
        "lora_r": 2,
        "output_dir": folder,
    }
    return make_settings(SFTConfig, given | more)


def test_held_out_loss_falls(client: EZTinkerClient, tmp_path: Path):
    config = settings(tmp_path, lr_scheduler_type="linear", warmup_steps=2, eval_steps=6, save_steps=6,
                      save_total_limit=1)  # fmt: skip
    figures = run(config, client)
    assert figures["steps"] == 12
    assert figures["eval_loss"] < 0.6 * figures["eval_loss_before"]
    assert [line["step"] for line in lines(tmp_path, "eval")] == [0, 6, 12]
    rates = [line["learning_rate"] for line in lines(tmp_path, "train")]
    assert max(rates) == rates[2] == 2e-3
    assert (tmp_path / "sft.png").is_file()
    kept = {c["name"] for c in client.get_checkpoints(figures["run_id"])}
    assert kept == {"step-12", "final"}
    # a run that begins with another's adapter has its loss, whatever its own seed
    again = settings(tmp_path / "next", init_from=figures["checkpoint"], seed=5, max_steps=1)
    assert run(again, client)["eval_loss_before"] == pytest.approx(figures["eval_loss"], rel=1e-4)


def test_interrupted_training_continues_with_the_same_numbers(
    client: EZTinkerClient, tmp_path: Path
):
    whole = run(settings(tmp_path / "whole", max_train_samples=48, lora_dropout=0.2), client)
    config = settings(tmp_path / "broken", max_train_samples=48, lora_dropout=0.2)
    with pytest.raises(Interruption):
        run(config, client, InterruptingProgress("training", 4))
    progress = InterruptingProgress("nothing", 1)
    continued = run(config, client, progress)
    assert any("Continuing run" in text for text in progress.said)
    assert continued["eval_loss"] == pytest.approx(whole["eval_loss"], rel=1e-4)
    assert same_lines(lines(tmp_path / "broken", "train"), lines(tmp_path / "whole", "train"))
    whole_run, broken_run = (
        next(r for r in client.get_runs() if r["run_id"] == f["run_id"]) for f in (whole, continued)
    )
    assert whole_run["step"] == broken_run["step"] == 6


@long_form
def test_a_killed_program_continues(client: EZTinkerClient, tmp_path: Path):
    """kill -9 in the middle, with steps still on their way."""
    words = [
        "dataset_name=generated-math",
        "max_train_samples=400",
        "max_eval_samples=16",
        "learning_rate=2e-3",
        f"output_dir={tmp_path}",
    ]
    command = [sys.executable, "-m", "eztinker", "recipe", "sft", *words]
    environment = os.environ | {"EZTINKER_BASE_URL": client.base_url, "EZTINKER_LANG": "en"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 60
    metrics = tmp_path / "metrics.jsonl"
    while not (metrics.is_file() and len(lines(tmp_path, "train")) >= 3):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert "Continuing run" in done.stderr
    (found,) = (r for r in client.get_runs() if r["run_id"] == figures["run_id"])
    assert found["step"] == 50  # every step once, none twice
    assert figures["eval_loss"] < 0.1


def test_early_stopping_keeps_the_best_weights(client: EZTinkerClient, tmp_path: Path):
    config = settings(
        tmp_path, learning_rate=0.3, max_grad_norm=None, eval_steps=2, early_stopping_patience=2,
        num_train_epochs=3, load_best_model_at_end=True,
    )  # fmt: skip
    figures = run(config, client)
    losses = [line["loss"] for line in lines(tmp_path, "eval")]
    assert len(losses) < 1 + 36 / 2
    assert figures["eval_loss"] == min(losses)
    assert run(config, client)["eval_loss"] == min(losses)  # done is done


def test_another_experiment_in_the_folder_is_refused(client: EZTinkerClient, tmp_path: Path):
    run(settings(tmp_path, max_steps=1), client)
    with pytest.raises(InvalidRequestError, match=r"learning_rate was 0\.002, now 0\.003"):
        run(settings(tmp_path, max_steps=1, learning_rate=3e-3), client)


@pytest.mark.parametrize(
    "wrong", [{"init_from": "run_00000000@final"}, {"lora_target_modules": ["nowhere"]}]
)
def test_a_refused_beginning_leaves_nothing(client: EZTinkerClient, tmp_path: Path, wrong: dict):
    before = client.get_runs()
    with pytest.raises(EZTinkerError):
        run(settings(tmp_path / "out", **wrong), client)
    assert not (tmp_path / "out").exists()
    assert client.get_runs() == before


def test_a_run_that_the_server_lost_is_explained(client: EZTinkerClient, tmp_path: Path):
    config = settings(tmp_path, max_steps=1)
    client.delete_run(run(config, client)["run_id"])
    with pytest.raises(NotFoundError, match="overwrite_output_dir"):
        run(config, client)


def test_the_plan_renders_the_first_batch_and_creates_nothing(
    client: EZTinkerClient, tmp_path: Path
):
    rows = [{"instruction": f"Say {i}", "output": f"{i}."} for i in range(10)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([*rows, {"instruction": "", "output": "x"}]))
    before = len(client.get_runs())
    found = plan(
        make_settings(SFTConfig, {"train_file": path, "output_dir": tmp_path / "out"}), client
    )
    assert found.facts["steps"] == 2
    assert found.facts["train_examples"] == 9
    assert "⟦" in found.first_batch[0]
    assert "1 left out" in found.notes[0]
    assert len(client.get_runs()) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no record"),
        ([{"instruction": "a", "output": "b"}], "to train on and to hold out"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 3, "dpo"),
    ],
)
def test_data_that_cannot_be_used(client: EZTinkerClient, tmp_path: Path, rows: list, said: str):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    config = make_settings(SFTConfig, {"train_file": path, "output_dir": tmp_path / "out"})
    with pytest.raises(InvalidRequestError, match=said):
        plan(config, client)
