"""DPO, reward model, RLHF and distillation on nano: short forms of ``make recipes``, each interrupted once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eztinker import EZTinkerClient
from eztinker.errors import InvalidRequestError
from eztinker.recipes.catalogue import RECIPES, get_recipe
from eztinker.recipes.experiment.settings import make_settings
from tests.e2e.recipes import InterruptingProgress, Interruption, lines, long_form


@pytest.fixture(scope="module")
def client() -> Iterator[EZTinkerClient]:
    with EZTinkerClient.embedded("nano", num_threads=1) as started:
        yield started


PAIRS = {"dataset_name": "generated-preference", "lora_r": 4, "max_eval_samples": 40}


def run(
    client: EZTinkerClient, name: str, label: str | None = None, after: int = 3, **given: Any
) -> dict:
    """Run a recipe; with a label, interrupt it there once and continue."""
    recipe = get_recipe(name)
    config = make_settings(recipe.config_class, given)
    if label is not None:
        with pytest.raises(Interruption):
            recipe.run(config, client, InterruptingProgress(label, after))
    return recipe.run(config, client, None)


def test_dpo_puts_held_out_pairs_in_order(client: EZTinkerClient, tmp_path: Path):
    figures = run(
        client, "dpo", "training", output_dir=tmp_path, max_train_samples=96, learning_rate=2e-3,
        eval_steps=6, **PAIRS,
    )  # fmt: skip
    assert figures["eval_accuracy"] > 0.8
    assert figures["eval_margin"] > 0
    assert figures["eval_loss_before"] == pytest.approx(math.log(2))  # policy and reference are one
    assert [line["step"] for line in lines(tmp_path, "eval")] == [0, 6, 12]
    later = lines(tmp_path, "train")[-1]
    assert later["loss"] == pytest.approx(later["pair_loss"], rel=1e-3)


def test_a_reward_model_ranks_held_out_pairs(client: EZTinkerClient, tmp_path: Path):
    figures = run(
        client, "reward_model", "training", output_dir=tmp_path, max_train_samples=320,
        learning_rate=4e-3, lr_scheduler_type="linear", **PAIRS,
    )  # fmt: skip
    assert figures["eval_accuracy"] > 0.8
    assert figures["eval_accuracy"] > figures["eval_accuracy_before"]
    assert len(client.get_checkpoints(figures["run_id"])) == 1


@pytest.fixture(scope="module")
def teacher(client: EZTinkerClient, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint that answers better than nano."""
    return run(
        client, "sft", output_dir=tmp_path_factory.mktemp("teacher"), dataset_name="generated-math",
        max_train_samples=160, max_eval_samples=8, learning_rate=2e-3, lora_r=2,
    )["checkpoint"]  # fmt: skip


STUDENT = {
    "max_train_samples": 64,
    "eval_size": 0,
    "max_completion_length": 60,
    "learning_rate": 2e-3,
    "lora_r": 4,
}


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("on_policy", {"max_steps": 8, "per_device_train_batch_size": 16}),
        pytest.param(
            "on_policy_topk",
            {
                "max_steps": 6,
                "per_device_train_batch_size": 16,
                "teacher_top_k": 4,
                "learning_rate": 5e-3,
            },
            marks=long_form,
        ),
    ],
)
def test_on_policy_distillation_lowers_the_reverse_divergence(
    client: EZTinkerClient, teacher: str, tmp_path: Path, mode: str, more: dict
):
    given = STUDENT | more | {"teacher_model": teacher, "mode": mode, "output_dir": tmp_path}
    figures = run(client, "distillation", "steps", after=2, **given)
    assert figures["steps"] == more["max_steps"]
    assert figures["reverse_kl_last"] < 0.8 * figures["reverse_kl_first"]
    if mode == "on_policy_topk":
        assert all(0.5 < line["teacher_mass"] <= 1.0001 for line in lines(tmp_path, "train"))


@long_form
def test_off_policy_distillation_learns_the_teachers_texts(
    client: EZTinkerClient, teacher: str, tmp_path: Path
):
    more = {"eval_size": 32, "only_correct": True, "teacher_model": teacher, "mode": "off_policy"}
    figures = run(
        client, "distillation", "teacher", after=1, output_dir=tmp_path, **(STUDENT | more)
    )
    assert figures["accuracy_after"] > figures["accuracy_before"]
    rows = [json.loads(line) for line in (tmp_path / "teacher.jsonl").read_text().splitlines()]
    assert len({row["example_id"] for row in rows}) == len(rows) == 64
    assert figures["train_examples"] == sum(row["is_correct"] for row in rows)


def test_rlhf_raises_the_reward_at_bounded_divergence(client: EZTinkerClient, tmp_path: Path):
    figures = run(
        client,
        "rlhf",
        "iterations",
        after=2,
        output_dir=tmp_path,
        lora_r=4,
        sft={"dataset_name": "generated-math", "max_train_samples": 16, "max_eval_samples": 8, "learning_rate": 5e-4},
        reward_model={"dataset_name": "generated-preference", "max_train_samples": 160, "max_eval_samples": 16,
                      "learning_rate": 4e-3},
        rl={"max_steps": 6, "eval_size": 24, "max_completion_length": 60, "learning_rate": 2e-3, "beta": 0.05},
    )  # fmt: skip
    assert figures["reward_after"] > figures["reward_before"]
    assert figures["kl_last"] < 1.0
    assert sorted(figures["stages"]) == ["reward_model", "rl", "sft"]
    steps = lines(tmp_path / "rl", "train")
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-5)  # it begins at its reference


@pytest.mark.parametrize(
    ("name", "given", "key"),
    [
        ("dpo", {}, "train_file"),
        ("dpo", {"dataset_name": "generated-preferences"}, "dataset_name"),
        ("distillation", {}, "teacher_model"),
        ("distillation", {"teacher_model": "nano", "only_correct": True}, "only_correct"),
        ("rlhf", {"sft": {"dataset_name": "generated-math", "lora_r": 3}}, "lora_r"),
        ("rlhf", {"sft": {"dataset_name": "x", "learning_rat": 1}}, "learning_rat"),
        ("grpo", {"reward": "judge"}, "judge_model"),
        ("grpo", {"reward": "reward_model", "reward_model": "run_1"}, "reward_model"),
        ("rejection_sft", {"similarity": "rouge_l"}, "similarity"),
        ("rejection_sft", {"scorer": "judge"}, "judge_model"),
    ],
)
def test_settings_without_effect(name: str, given: dict, key: str):
    with pytest.raises(InvalidRequestError) as caught:
        make_settings(get_recipe(name).config_class, given)
    assert caught.value.field == key


def test_every_recipe_says_what_it_would_do(client: EZTinkerClient, tmp_path: Path):
    """``--dry-run`` of each, with the least that it needs; nothing is created."""
    math_data, pairs = {"dataset_name": "generated-math"}, {"dataset_name": "generated-preference"}
    needed: dict[str, dict[str, Any]] = {
        "sft": math_data,
        "dpo": pairs,
        "reward_model": pairs,
        "distillation": {"teacher_model": "nano"},
        "rlhf": {"sft": math_data, "reward_model": pairs},
    }
    before = len(client.get_runs())
    for name in RECIPES:
        recipe = get_recipe(name)
        small = {} if name == "rlhf" else {"max_train_samples": 8}
        given = needed.get(name, {}) | small | {"output_dir": tmp_path / name}
        if name not in needed and name not in ("grpo", "rejection_sft"):
            continue  # pipelines have settings and tests of their own
        found = recipe.plan(make_settings(recipe.config_class, given), client)
        assert found.recipe == name
        assert found.first_batch
    assert len(client.get_runs()) == before
    assert list(tmp_path.iterdir()) == []
