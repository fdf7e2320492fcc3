"""Settings: where values come from, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.recipes.experiment.settings import load_settings, parse_overrides
from eztinker.recipes.experiment.training_settings import TrainingConfig


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_words_win_over_the_file_and_the_file_over_defaults(tmp_path: Path):
    file = written(tmp_path, "learning_rate: 1e-3\nlora_r: 4\nreport_to: none\n")
    config = load_settings(TrainingConfig, file, ["lora-r=16", "max_grad_norm=null"])
    assert (config.learning_rate, config.lora_r, config.max_grad_norm) == (1e-3, 16, None)
    assert config.report_to == []
    assert config.per_device_train_batch_size == 8


def test_a_rate_written_without_a_point_is_a_number(tmp_path: Path):
    assert load_settings(TrainingConfig, None, ["learning_rate=2e-4"]).learning_rate == 2e-4


@pytest.mark.parametrize(
    ("words", "key", "said"),
    [
        (["learning_rat=1"], "learning_rat", "'learning_rate'"),
        (["lr=1", "lora_r=2"], "lr", "Unknown key"),
        (["lora_r=0"], "lora_r", "greater than or equal to 1"),
        (["lora_r=two"], "lora_r", "'two'"),
        (["lr_scheduler_type=cosin"], "lr_scheduler_type", "'cosine'"),
        (["warmup_steps=5"], "warmup_steps", "constant_with_warmup"),
        (["max_steps=3", "num_train_epochs=2"], "num_train_epochs", "max_steps"),
        (["save_total_limit=2"], "save_total_limit", "save_steps"),
        (["run_name=x"], "run_name", "report_to"),
        (["load_in_4bit=true", "load_in_8bit=true"], "load_in_8bit", "Choose one"),
        (["report_to=mlflow"], "report_to.0", "'tensorboard'"),
        (["lora_r"], "lora_r", "key=value"),
        (["lora_r=1", "lora_r=2"], "lora_r", "twice"),
        (["lora_r=[1"], "lora_r", "cannot be read"),
    ],
)
def test_refusals_name_the_key_and_the_way_out(words: list[str], key: str, said: str):
    with pytest.raises(InvalidRequestError) as caught:
        load_settings(TrainingConfig, None, words)
    assert caught.value.field == key
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lora_r: 1\nlora_r: 2\n", "given twice"),
        ("- a\n- b\n", "expected a mapping"),
        ("lora_r: [1\n", "broken YAML"),
    ],
)
def test_a_file_that_is_no_settings_file(tmp_path: Path, text: str, said: str):
    with pytest.raises(InvalidRequestError, match=said):
        load_settings(TrainingConfig, written(tmp_path, text))


def test_an_empty_file_is_the_defaults_and_a_missing_one_an_error(tmp_path: Path):
    assert load_settings(TrainingConfig, written(tmp_path, "")) == TrainingConfig()
    with pytest.raises(NotFoundError, match=r"No settings file at .*nowhere\.yaml"):
        load_settings(TrainingConfig, tmp_path / "nowhere.yaml")


def test_an_override_may_hold_an_equals_sign():
    assert parse_overrides(["run_name=a=b", 'stop=["\\n"]']) == {"run_name": "a=b", "stop": ["\n"]}


def test_steps_follow_epochs_batches_and_accumulation():
    config = TrainingConfig(
        per_device_train_batch_size=2, gradient_accumulation_steps=3, num_train_epochs=1.5
    )
    assert config.batch_size == 6
    assert config.num_steps(13) == 5  # three batches an epoch, one and a half epochs
    assert TrainingConfig(max_steps=7).num_steps(13) == 7
    with pytest.raises(InvalidRequestError, match="no example"):
        config.num_steps(0)
