"""Training files of LLaMA-Factory and axolotl as settings of our recipes.

Each key of theirs is one of three: it has a counterpart here, it says how their programs work and changes nothing about
the training (threads, caches, kernels, progress), or it is refused by name, all such keys at once. Pure but for the
data set index of LLaMA-Factory. Called by ``eztinker config import``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError, UnsupportedError

Settings = dict[str, Any]
Convert = Callable[[Any], Settings]

SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine")


@dataclass(frozen=True)
class Imported:
    """A file, translated.

    Attributes:
        program: ``LLaMA-Factory`` or ``axolotl``.
        recipe: of ours.
        settings: for ``eztinker recipe``.
        left_out: keys that change nothing here, and those dropped on request.
    """

    program: str
    recipe: str
    settings: Settings
    left_out: list[str] = field(default_factory=list)


def _as(name: str) -> Convert:
    return lambda value: {name: value}


def _nothing(value: Any) -> Settings:
    return {}


def _only(*allowed: Any, key: str, way: str) -> Convert:
    """A key that may only say what is done here anyway."""

    def convert(value: Any) -> Settings:
        if value not in allowed:
            raise UnsupportedError(f"{key} {value!r}: {way}.", field=key)
        return {}

    return convert


def _schedule(value: Any) -> Settings:
    if value not in SCHEDULES:
        raise UnsupportedError(
            f"lr_scheduler {value!r} is not implemented. Choose one of {', '.join(SCHEDULES)}.",
            field="lr_scheduler_type",
        )
    return {"lr_scheduler_type": value}


def _targets(value: Any) -> Settings:
    if value in ("all", "all-linear", ["all"], None):
        return {}
    modules = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    return {"lora_target_modules": modules}


def _bits(value: Any) -> Settings:
    if value in (None, "null"):
        return {}
    names = {4: "load_in_4bit", 8: "load_in_8bit"}
    if value not in names:
        raise UnsupportedError(
            f"quantization_bit {value!r}: 4 and 8 are implemented.", field="quantization_bit"
        )
    return {names[value]: True}


def _share(value: Any) -> Settings:
    """A held-out share; a count of rows cannot be said in a share."""
    if not value:
        return {}
    if value >= 1:
        raise UnsupportedError(
            f"A validation size of {value} rows: give a share below 1, or a validation_file.",
            field="val_size",
        )
    return {"validation_split_percentage": 100 * value}


def _reports(value: Any) -> Settings:
    known = {"tensorboard", "wandb", "trackio"}
    names = [value] if isinstance(value, str) else list(value or [])
    names = [name for name in names if name != "none"]
    if set(names) - known:
        raise UnsupportedError(
            f"report_to {value!r}: {', '.join(sorted(known))} are implemented.", field="report_to"
        )
    return {"report_to": names} if names else {}


def _flag(name: str, value_if_true: Any) -> Convert:
    return lambda value: {name: value_if_true} if value else {}


_SAME = (
    "output_dir", "overwrite_output_dir", "learning_rate", "weight_decay", "max_grad_norm", "adam_beta1",
    "adam_beta2", "adam_epsilon", "max_steps", "gradient_accumulation_steps", "warmup_steps", "warmup_ratio",
    "logging_steps", "save_steps", "save_total_limit", "eval_steps", "seed", "lora_dropout", "lora_alpha",
    "use_rslora", "load_in_4bit", "load_in_8bit", "run_name",
    "early_stopping_patience", "load_best_model_at_end",
)  # fmt: skip

_LORA_ONLY = _only(
    "lora", "qlora", key="finetuning_type", way="only LoRA adapters are trained here"
)

LLAMA_FACTORY: dict[str, Convert] = {
    **{name: _as(name) for name in _SAME},
    "model_name_or_path": _as("model_name_or_path"),
    "adapter_name_or_path": lambda value: _refuse_adapter(value),
    "finetuning_type": _LORA_ONLY,
    "lora_rank": _as("lora_r"),
    "lora_target": _targets,
    "quantization_bit": _bits,
    "cutoff_len": _as("max_length"),
    "max_samples": _as("max_train_samples"),
    "per_device_train_batch_size": _as("per_device_train_batch_size"),
    "num_train_epochs": _as("num_train_epochs"),
    "lr_scheduler_type": _schedule,
    "val_size": _share,
    "report_to": _reports,
    "train_on_prompt": _flag("loss_on", "all"),
    "mask_history": _flag("loss_on", "last"),
    "pref_beta": _as("beta"),
    "pref_loss": _only("sigmoid", key="pref_loss", way="only the sigmoid loss of DPO is implemented"),
    "optim": _only("adamw_torch", "adamw_torch_fused", "adamw_hf", key="optim", way="only AdamW is implemented"),
    "neftune_noise_alpha": _only(None, 0, key="neftune_noise_alpha", way="not implemented; leave it out"),
}  # fmt: skip

AXOLOTL: dict[str, Convert] = {
    **{name: _as(name) for name in _SAME},
    "base_model": _as("model_name_or_path"),
    "adapter": lambda value: _LORA_ONLY(value) | _flag("load_in_4bit", True)(value == "qlora"),
    "lora_r": _as("lora_r"),
    "lora_target_linear": _only(True, key="lora_target_linear", way="name the modules in lora_target_modules"),
    "lora_target_modules": _targets,
    "sequence_len": _as("max_length"),
    "micro_batch_size": _as("per_device_train_batch_size"),
    "num_epochs": _as("num_train_epochs"),
    "lr_scheduler": _schedule,
    "val_set_size": _share,
    "train_on_inputs": _flag("loss_on", "all"),
    "rl_beta": _as("beta"),
    "dpo_beta": _as("beta"),
    "wandb_project": lambda value: {"report_to": ["wandb"], "project": value} if value else {},
    "wandb_name": lambda value: {"run_name": value} if value else {},
    "optimizer": _only("adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit",
                       "paged_adamw_32bit", key="optimizer", way="only AdamW is implemented"),
}  # fmt: skip

HARMLESS = frozenset(
    {
        "do_train", "overwrite_cache", "preprocessing_num_workers", "dataloader_num_workers", "plot_loss",
        "save_only_model", "ddp_timeout", "bf16", "fp16", "tf32", "flash_attn", "flash_attention", "sdp_attention",
        "xformers_attention", "gradient_checkpointing", "gradient_checkpointing_kwargs", "per_device_eval_batch_size",
        "eval_batch_size", "template", "trust_remote_code", "packing", "sample_packing", "eval_sample_packing",
        "pad_to_sequence_len", "group_by_length", "strict", "model_type", "tokenizer_type", "dataset_prepared_path",
        "wandb_entity", "wandb_watch", "wandb_log_model", "deepspeed", "fsdp", "fsdp_config", "local_rank",
        "resume_from_checkpoint", "auto_resume_from_checkpoints", "quantization_method", "double_quantization",
        "logging_dir", "logging_strategy", "save_strategy", "eval_strategy", "evaluation_strategy", "do_eval",
        "use_fast_tokenizer", "chat_template", "is_llama_derived_model", "debug", "upcast_layernorm", "xformers",
        "include_num_input_tokens_seen", "dataset_dir", "ddp_find_unused_parameters", "lora_mlp_kernel", "plugins",
        "lora_qkv_kernel", "lora_o_kernel", "torch_compile", "low_cpu_mem_usage", "disable_gradient_checkpointing",
    }
)  # fmt: skip
"""Keys about how their programs run; packing, kernels and memory are the server's affair here, and a model's own chat
template is always used."""

_STAGES = {"sft": "sft", "dpo": "dpo", "rm": "reward_model"}
_TOP = {"LLaMA-Factory": {"stage", "dataset"}, "axolotl": {"datasets", "rl", "test_datasets"}}


def _refuse_adapter(value: Any) -> Settings:
    if value is None:
        return {}
    raise UnsupportedError(
        f"adapter_name_or_path {value!r}: bring the adapter in with 'eztinker import', and begin with it "
        "(init_from=RUN_ID@CHECKPOINT).",
        field="adapter_name_or_path",
    )


def program_of(values: Mapping[str, Any]) -> str | None:
    """Whose file it is, by its keys; None when neither's."""
    if "base_model" in values:
        return "axolotl"
    if "model_name_or_path" in values and {"stage", "finetuning_type", "template"} & set(values):
        return "LLaMA-Factory"
    return None


def import_config(
    values: Mapping[str, Any],
    *,
    folder: Path = Path(),
    data: Path | None = None,
    drop: Collection[str] = (),
) -> Imported:
    """Translate the content of a training file.

    Args:
        values: the YAML mapping.
        folder: where the file lies; paths of data are looked up there.
        data: file to train on, instead of what the file names.
        drop: keys to leave out knowingly.

    Raises:
        InvalidRequestError: neither program's file, or no data file can be found.
        UnsupportedError: keys that are not known here (``details["keys"]``), or a value that is not implemented.
    """
    program = program_of(values)
    if program is None:
        raise InvalidRequestError(
            "Expected a training file of LLaMA-Factory (model_name_or_path with stage or finetuning_type) or of axolotl "
            f"(base_model), got the keys {', '.join(map(str, values)) or '(none)'}.",
            field="FILE",
        )
    table = LLAMA_FACTORY if program == "LLaMA-Factory" else AXOLOTL
    known = {*table, *HARMLESS, *_TOP[program], *drop}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UnsupportedError(
            f"{program} keys without a counterpart here: {', '.join(unknown)}. Remove them, or leave them out "
            f"knowingly: {' '.join(f'--drop {key}' for key in unknown)}.",
            code="unknown_key",
            field=unknown[0],
            details={"keys": unknown},
        )
    settings: Settings = {}
    for key, value in values.items():
        if key in table and key not in drop and value is not None:
            settings |= table[key](value)
    recipe = _recipe(program, values)
    path = data or _data_file(program, values, folder)
    left_out = sorted(key for key in values if key in HARMLESS or key in drop)
    return Imported(
        program, recipe, _fitting(recipe, {**settings, "train_file": str(path)}), left_out
    )


def _recipe(program: str, values: Mapping[str, Any]) -> str:
    stage = values.get("stage", "sft") if program == "LLaMA-Factory" else values.get("rl") or "sft"
    if stage not in _STAGES:
        raise UnsupportedError(
            f"{program} stage {stage!r}: {', '.join(_STAGES)} can be imported. For reinforcement learning see the "
            "recipes grpo and rlhf.",
            field="stage",
        )
    return _STAGES[stage]


def _fitting(recipe: str, settings: Settings) -> Settings:
    """Settings without contradictions that those programs allow: rates of warm-up with a constant schedule and so on."""
    made = dict(settings)
    warms_up = bool(made.get("warmup_steps") or made.get("warmup_ratio"))
    if warms_up and made.get("lr_scheduler_type", "constant") == "constant":
        made["lr_scheduler_type"] = "constant_with_warmup"
    if not warms_up:
        made.pop("warmup_steps", None)
        made.pop("warmup_ratio", None)
    if made.get("warmup_steps") and made.get("warmup_ratio"):
        made.pop("warmup_ratio")  # transformers: steps win
    if made.get("max_steps") in (-1, 0):
        made.pop("max_steps")
    if "max_steps" in made:
        made.pop("num_train_epochs", None)
    if recipe != "sft":
        made.pop("loss_on", None)
    return made


def _data_file(program: str, values: Mapping[str, Any], folder: Path) -> Path:
    names = values.get("dataset") if program == "LLaMA-Factory" else values.get("datasets")
    if program == "LLaMA-Factory":
        return _of_index(names, Path(str(values.get("dataset_dir", "data"))), folder)
    entries = names if isinstance(names, list) else []
    paths = [entry.get("path") for entry in entries if isinstance(entry, Mapping)]
    if len(paths) != 1 or not paths[0]:
        raise InvalidRequestError(
            f"Expected one data set under datasets, got {len(paths)}. Join them to one file and give --data FILE.",
            field="datasets",
        )
    return _existing(Path(str(paths[0])), folder, "datasets")


def _of_index(names: Any, dataset_dir: Path, folder: Path) -> Path:
    """A data set of LLaMA-Factory: a name in ``dataset_info.json``, or a path."""
    listed = (
        [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names or [])
    )
    if len(listed) != 1:
        raise InvalidRequestError(
            f"Expected one name under dataset, got {len(listed)}. Join the files to one and give --data FILE.",
            field="dataset",
        )
    for root in (folder / dataset_dir, dataset_dir):
        index = root / "dataset_info.json"
        if index.is_file():
            entry = json.loads(index.read_text(encoding="utf-8")).get(listed[0], {})
            if "file_name" in entry:
                return _existing(root / entry["file_name"], folder, "dataset")
    return _existing(Path(listed[0]), folder, "dataset")


def _existing(path: Path, folder: Path, key: str) -> Path:
    for candidate in (path, folder / path):
        if candidate.is_file():
            return candidate
    raise InvalidRequestError(
        f"{key} {str(path)!r} is no file here (nothing is fetched). Give the file with --data FILE.",
        code="dataset_not_found",
        field=key,
    )
