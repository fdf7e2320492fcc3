"""The GRPO recipe on nano: it raises the held-out accuracy, continues, and bounds staleness."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eztinker import EZTinkerClient
from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.settings import make_settings
from eztinker.recipes.grpo import GRPOConfig, plan, run
from tests.e2e.recipes import (
    InterruptingProgress,
    Interruption,
    lines,
    lose_train_lines,
    same_lines,
)


@pytest.fixture(scope="module")
def client() -> Iterator[EZTinkerClient]:
    with EZTinkerClient.embedded("nano", num_threads=1) as started:
        yield started


def settings(folder: Path, **more: object) -> GRPOConfig:
    given = {
        "max_train_samples": 64,
        "eval_size": 0,
        "max_steps": 3,
        "num_generations": 4,
        "per_device_train_batch_size": 16,
        "max_completion_length": 60,
        "learning_rate": 3e-3,
        "lora_r": 2,
        "output_dir": folder,
    }
    return make_settings(GRPOConfig, given | more)


def test_accuracy_rises_by_fifteen_points_through_an_interruption(
    client: EZTinkerClient, tmp_path: Path
):
    config = settings(
        tmp_path, max_steps=6, eval_size=48, per_device_train_batch_size=48, num_generations=6, beta=0.01
    )  # fmt: skip
    with pytest.raises(Interruption):
        run(config, client, InterruptingProgress("iterations", 3))
    kept = (tmp_path / "rollouts" / "step_000002.jsonl").read_bytes()
    figures = run(config, client)
    assert figures["accuracy_after"] >= figures["accuracy_before"] + 0.15
    assert figures["reward_last"] > figures["reward_first"]
    assert figures["steps"] == 6
    assert (tmp_path / "rollouts" / "step_000002.jsonl").read_bytes() == kept
    assert len(list((tmp_path / "rollouts").iterdir())) == 6
    steps = lines(tmp_path, "train")
    assert sorted(line["step"] for line in steps) == sorted({line["step"] for line in steps})
    # sampler and trainer agree on every token, so nothing is off-policy
    assert all(line["ratio_mean"] == pytest.approx(1, abs=1e-4) for line in steps)
    assert all(line["staleness"] == 0 for line in steps)
    assert 0 < figures["kl_last"] < 1
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)
    lost = lose_train_lines(tmp_path, 4)
    assert run(config, client)["reward_last"] == pytest.approx(figures["reward_last"])
    assert same_lines(lines(tmp_path, "train")[4:], lost)


def test_rollouts_of_an_asynchronous_run_are_at_most_so_old(client: EZTinkerClient, tmp_path: Path):
    run(settings(tmp_path, max_steps=5, max_staleness=2, loss_fn="cispo"), client)
    staleness = [line["staleness"] for line in lines(tmp_path, "train")]
    assert max(staleness) <= 2
    assert max(staleness) >= 1
    later = lines(tmp_path, "train")[-1]
    assert later["off_policy_kl"] > 0
    assert 0 < later["effective_share"] <= 1


@pytest.mark.parametrize(
    "more",
    [
        {
            "loss_fn": "ppo",
            "epsilon": 0.1,
            "epsilon_high": 0.3,
            "num_iterations": 2,
            "max_steps": 4,
        },
        {"loss_fn": "gspo", "advantage": "leave_one_out", "loss_type": "grpo"},
        {
            "temperature": 0.9,
            "logprobs_from": "trainer",
            "advantage": "centred",
            "loss_type": "dr_grpo",
        },
    ],
)
def test_every_loss_trains(client: EZTinkerClient, tmp_path: Path, more: dict):
    config = settings(tmp_path, **more)
    run(config, client)
    steps = lines(tmp_path, "train")
    assert [line["step"] for line in steps] == list(range(1, (config.max_steps or 0) + 1))
    assert any(line["grad_norm"] > 0 for line in steps)
    if config.num_iterations == 2:  # the second step on the same rollouts is off-policy
        assert steps[1]["off_policy_kl"] > steps[0]["off_policy_kl"]
        assert steps[1]["reward"] == steps[0]["reward"]


def test_the_plan_counts_answers(client: EZTinkerClient, tmp_path: Path):
    found = plan(settings(tmp_path, max_steps=None, num_train_epochs=2), client)
    assert found.facts["questions_per_step"] == 4
    assert found.facts["iterations"] == 32
    assert found.facts["answers_in_all"] == 512


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"num_generations": 5}, "num_generations"),
        ({"num_generations": 1, "per_device_train_batch_size": 4}, "num_generations"),
        ({"epsilon": 0.2}, "epsilon"),
        ({"ref_model": "run_1@a"}, "ref_model"),
        ({"temperature": 0.7}, "logprobs_from"),
        ({"data_path": "x.jsonl"}, "data_path"),
    ],
)
def test_settings_without_effect(tmp_path: Path, more: dict, key: str):
    with pytest.raises(InvalidRequestError) as caught:
        settings(tmp_path, **more)
    assert caught.value.field == key
