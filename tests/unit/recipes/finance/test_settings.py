"""Settings edited by attribute: checked at once, named when misspelt, read from ``configs/config.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.recipes.experiment.settings import explain, load_settings
from eztinker.recipes.finance.config import VARIABLES, FinanceConfig, read_config_file
from eztinker.recipes.finance.parts import GRPOConfig, SFTConfig

FILE = Path(__file__).parents[4] / "configs" / "config.py"


def test_the_documents_values_are_the_defaults_and_those_of_the_file() -> None:
    from_file = FinanceConfig.model_validate(read_config_file(FILE))
    assert from_file == FinanceConfig()
    assert set(read_config_file(FILE)) == set(VARIABLES.values())
    sft, grpo, lora = from_file.sft, from_file.grpo, from_file.lora
    assert (sft.num_train_epochs, sft.per_device_train_batch_size) == (2, 2)
    assert (sft.gradient_accumulation_steps, sft.learning_rate) == (8, 2e-4)
    assert (grpo.num_sample_generations, grpo.temperature, grpo.kl_coef) == (4, 0.7, 0.05)
    assert (grpo.format_reward_weight, grpo.accuracy_reward_weight) == (0.3, 0.7)
    assert (lora.r, lora.lora_alpha) == (16, 32)
    assert from_file.model.base_model == "Qwen/Qwen2.5-1.5B-Instruct"
    assert from_file.model.model_max_length == 2048
    assert (from_file.wandb.enabled, from_file.wandb.project) == (True, "FTModel-Training")


def test_every_attribute_is_explained_under_its_key() -> None:
    keys = {key: (default, text) for key, default, text in explain(FinanceConfig)}
    assert keys["sft.learning_rate"] == ("0.0002", "Peak learning rate of AdamW.")
    assert "root" in keys
    assert "sft" not in keys
    assert all(text for _, text in keys.values())


def test_a_misspelt_attribute_names_the_nearest() -> None:
    with pytest.raises(InvalidRequestError, match="learning_rate"):
        SFTConfig().learnin_rate = 1e-4  # type: ignore[attr-defined]
    with pytest.raises(InvalidRequestError, match="kl_coef"):
        GRPOConfig(kl_coeff=0.1)  # type: ignore[call-arg]
    with pytest.raises(InvalidRequestError, match="learning_rate"):
        load_settings(FinanceConfig, None, ["sft.learning_rat=1e-4"])


@pytest.mark.parametrize("value", [0, -1.0, "fast", None])
def test_a_bad_value_is_refused_and_changes_nothing(value: object) -> None:
    part = SFTConfig()
    with pytest.raises(InvalidRequestError, match="learning_rate"):
        part.learning_rate = value  # type: ignore[assignment]
    assert part == SFTConfig()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["grpo.format_reward_weight=0", "grpo.accuracy_reward_weight=0"], "nothing is rewarded"),
        (["data.type_shares={poem: 1}"], "poem"),
        (["data.type_shares={concept_qa: 0}"], "one above"),
        (["evaluation.num_samples=4"], "greedy answers are alike"),
        (["teacher.temperature=0"], "max_attempts"),
        (["filter.min_reasoning_chars=9000"], "exceeds"),
    ],
)
def test_what_one_part_alone_cannot_know(words: list[str], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        load_settings(FinanceConfig, None, words)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SFT_CONFIG.learnin_rate = 1", "learning_rate"),
        ("STF_CONFIG = SFT_CONFIG", "SFT_CONFIG"),
        ("SFT_CONFIG = 5", "must be a SFTConfig"),
        ("SFT_CONFIG.learning_rate = 1 +", "SyntaxError"),
        ("nonsense", "NameError"),
    ],
)
def test_a_broken_file_is_named_with_its_fault(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "config.py"
    path.write_text(FILE.read_text("utf-8") + line + "\n", "utf-8")
    with pytest.raises(InvalidRequestError, match=said) as caught:
        read_config_file(path)
    assert str(path) in caught.value.message
    with pytest.raises(NotFoundError):
        read_config_file(tmp_path / "none.py")


def test_changes_leave_the_first_settings_as_they_were() -> None:
    first = FinanceConfig()
    changed = first.with_parts(sft={"num_train_epochs": 1}).with_quantization("none")
    assert changed.sft.num_train_epochs == 1
    assert {
        changed.teacher.quantization,
        changed.judge.quantization,
        changed.model.quantization,
    } == {"none"}
    assert first == FinanceConfig()
    with pytest.raises(InvalidRequestError, match="num_train_epochs"):
        first.with_parts(sft={"num_train_epochs": 0})


def test_an_adapter_that_is_missing_or_a_whole_model_is_named(tmp_path: Path) -> None:
    config = FinanceConfig.model_validate({"root": tmp_path})
    with pytest.raises(NotFoundError, match="Run stage 5 first"):
        config.adapter("grpo")
    with pytest.raises(NotFoundError, match="Run stage 4 first"):
        config.adapter("sft")
    folder = tmp_path / "ckpts" / "sft_lora"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(InvalidRequestError, match="whole model") as caught:
        config.adapter("sft")
    assert caught.value.code == "is_whole_model"
