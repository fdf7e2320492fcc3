"""Training files of LLaMA-Factory and axolotl: what becomes of each key, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.recipes.catalogue import get_recipe
from eztinker.recipes.experiment.settings import make_settings
from eztinker.recipes.foreign_config import import_config
from tests.unit.cli.conftest import Run

LLAMA_FACTORY = """
### model
model_name_or_path: Qwen/Qwen2-0.5B-Instruct
trust_remote_code: true
### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: all
### dataset
dataset: mine
template: qwen
cutoff_len: 1024
max_samples: 500
overwrite_cache: true
preprocessing_num_workers: 16
### output
output_dir: saves/mine
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
report_to: none
### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
### eval
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
"""
AXOLOTL = """
base_model: Qwen/Qwen2-0.5B-Instruct
load_in_4bit: true
datasets:
  - path: mine.jsonl
    type: alpaca
val_set_size: 0.05
output_dir: ./outputs/out
adapter: qlora
sequence_len: 2048
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 1
optimizer: paged_adamw_32bit
lr_scheduler: cosine
learning_rate: 0.0002
warmup_steps: 10
weight_decay: 0.0
bf16: auto
flash_attention: true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(
        json.dumps({"mine": {"file_name": "rows.json"}})
    )
    (tmp_path / "data" / "rows.json").write_text("[]")
    (tmp_path / "mine.jsonl").write_text("")
    return tmp_path


def test_a_file_of_llama_factory(folder: Path):
    found = import_config(yaml.safe_load(LLAMA_FACTORY), folder=folder)
    assert (found.program, found.recipe) == ("LLaMA-Factory", "sft")
    config = make_settings(get_recipe("sft").config_class, found.settings)
    expected = {
        "model_name_or_path": "Qwen/Qwen2-0.5B-Instruct",
        "train_file": folder / "data" / "rows.json",
        "lora_r": 16,
        "max_length": 1024,
        "max_train_samples": 500,
        "learning_rate": 1e-4,
        "batch_size": 8,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "validation_split_percentage": 10.0,
        "eval_steps": 500,
        "report_to": [],
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert {"template", "bf16", "plot_loss"} <= set(found.left_out)


def test_a_file_of_axolotl(folder: Path):
    found = import_config(yaml.safe_load(AXOLOTL), folder=folder)
    config = make_settings(get_recipe(found.recipe).config_class, found.settings)
    assert found.program == "axolotl"
    assert (config.load_in_4bit, config.lora_r, config.lora_alpha) == (True, 32, 16)
    assert (config.batch_size, config.warmup_steps, config.max_length) == (8, 10, 2048)
    assert config.train_file == folder / "mine.jsonl"


def test_stages_become_recipes(folder: Path):
    base = {"model_name_or_path": "m", "finetuning_type": "lora", "dataset": "mine"}
    dpo = import_config(
        base | {"stage": "dpo", "pref_beta": 0.2, "pref_loss": "sigmoid"}, folder=folder
    )
    assert (dpo.recipe, dpo.settings["beta"]) == ("dpo", 0.2)
    assert import_config(base | {"stage": "rm"}, folder=folder).recipe == "reward_model"
    assert (
        import_config(
            {"base_model": "m", "rl": "dpo", "datasets": [{"path": "mine.jsonl"}]}, folder=folder
        ).recipe
        == "dpo"
    )
    with pytest.raises(UnsupportedError, match="grpo and rlhf"):
        import_config(base | {"stage": "ppo"}, folder=folder)


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"finetuning_type": "full"}, "finetuning_type"),
        ({"lr_scheduler_type": "inverse_sqrt"}, "lr_scheduler_type"),
        ({"optim": "lion_32bit"}, "optim"),
        ({"quantization_bit": 3}, "quantization_bit"),
        ({"val_size": 100}, "val_size"),
        ({"report_to": "mlflow"}, "report_to"),
        ({"use_galore": True, "pissa_init": True}, "pissa_init"),
        ({"adapter_name_or_path": "saves/old"}, "adapter_name_or_path"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(folder: Path, changed: dict, key: str):
    with pytest.raises(UnsupportedError) as caught:
        import_config(yaml.safe_load(LLAMA_FACTORY) | changed, folder=folder)
    assert caught.value.field == key


def test_all_unknown_keys_are_named_at_once_and_can_be_dropped(folder: Path):
    values = yaml.safe_load(AXOLOTL) | {"saves_per_epoch": 1, "evals_per_epoch": 4}
    with pytest.raises(UnsupportedError, match="--drop evals_per_epoch --drop saves_per_epoch"):
        import_config(values, folder=folder)
    found = import_config(values, folder=folder, drop=["saves_per_epoch", "evals_per_epoch"])
    assert "saves_per_epoch" in found.left_out


def test_data_that_are_not_here(folder: Path):
    values = yaml.safe_load(AXOLOTL) | {"datasets": [{"path": "owner/hub-set", "type": "alpaca"}]}
    with pytest.raises(InvalidRequestError, match="--data FILE"):
        import_config(values, folder=folder)
    given = import_config(values, folder=folder, data=folder / "mine.jsonl")
    assert given.settings["train_file"] == str(folder / "mine.jsonl")
    with pytest.raises(InvalidRequestError, match="Expected a training file"):
        import_config({"a": 1})


def test_the_command_writes_a_file_that_a_recipe_reads(folder: Path, run: Run):
    (folder / "theirs.yaml").write_text(LLAMA_FACTORY)
    done = run(
        "config", "import", str(folder / "theirs.yaml"), "--output", str(folder / "ours.yaml")
    )
    assert done.code == 0
    assert "eztinker recipe sft --config" in done.stderr
    assert yaml.safe_load((folder / "ours.yaml").read_text())["lora_r"] == 16
    (folder / "bad.yaml").write_text("base_model: m\nfoo: 1\n")
    refused = run("config", "import", str(folder / "bad.yaml"))
    assert refused.code == 2
    assert "foo" in refused.stderr
