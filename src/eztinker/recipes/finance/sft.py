"""Stage 4, SFT: the base model learns the form from the rows that the filter kept.

Rows become conversations in the model's chat template; the training itself is the recipe ``sft``, in the experiment folder
``logs/sft_train``, with its log beside it. The adapter comes home as ``ckpts/sft_lora``. Called by
``scripts/4_train_sft.py``, the recipe and the ablation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eztinker.dataset.finance import SFTRow, read_records
from eztinker.recipes.catalogue import get_recipe
from eztinker.recipes.experiment.settings import make_settings
from eztinker.recipes.finance.adapter_folder import begin, bring_home, finish
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.held_models import training_settings
from eztinker.recipes.finance.tracking import tracking_settings
from eztinker.recipes.terminal import Progress
from eztinker.rendering.finance import finance_request
from eztinker.rl.durable import write_text

NAME = "finance-sft"
FILTER = "stage 3 (python scripts/3_filter_data.py)"
CONVERSATIONS_FILE = "conversations.jsonl"
HELD_OUT_PERCENT = 5.0
"""Share of sft.jsonl whose loss is watched and which is not trained on."""


def folder_of(config: FinanceConfig) -> Path:
    """The experiment's folder; its log lies beside it as ``logs/sft_train.log``."""
    return config.paths.logs / "sft_train"


def run(config: FinanceConfig, client: Any, progress: Progress) -> dict[str, Any]:
    """Train, or continue; figures in JSON types.

    Returns:
        ``adapter`` (the PEFT folder), ``steps``, ``train_examples``, ``eval_loss_before``, ``eval_loss``, ``run_id``.

    Raises:
        NotFoundError: stage 3 has not run.
        InvalidRequestError: the adapter exists already (``code="output_exists"``).
    """
    rows = _rows(config)
    folder = folder_of(config)
    is_afresh = begin(
        folder, config.paths.sft_lora, [config.paths.sft_rows], overwrite=config.overwrite
    )
    write_conversations(folder / CONVERSATIONS_FILE, rows)
    settings = _settings(config, folder, progress, is_afresh=is_afresh)
    trained = get_recipe("sft").run(settings, client, progress)
    bring_home(client, trained["checkpoint"], config.paths.sft_lora)
    names = ("steps", "train_examples", "eval_loss_before", "eval_loss", "run_id", "plot")
    figures = {"adapter": str(config.paths.sft_lora), **{name: trained[name] for name in names}}
    finish(folder, figures)
    return figures


def check(config: FinanceConfig) -> None:
    """Refuse to begin without rows."""
    _rows(config)


def _rows(config: FinanceConfig) -> list[SFTRow]:
    return read_records(config.paths.sft_rows, SFTRow, made_by=FILTER)


def write_conversations(path: Path, rows: Sequence[SFTRow]) -> None:
    """The rows as conversations, asked as the model will be asked later."""
    lines = [
        {
            "messages": [
                {"role": "user", "content": finance_request(row.prompt)},
                {"role": "assistant", "content": row.response},
            ]
        }
        for row in rows
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _settings(config: FinanceConfig, folder: Path, progress: Progress, *, is_afresh: bool) -> Any:
    part, lora = config.sft, config.lora
    warms_up = part.lr_scheduler_type != "constant" and part.warmup_ratio > 0
    values = {
        "model_name_or_path": config.model.base_model,
        "output_dir": folder,
        "overwrite_output_dir": is_afresh,
        "train_file": folder / CONVERSATIONS_FILE,
        "validation_split_percentage": HELD_OUT_PERCENT,
        "max_length": config.model.model_max_length,
        "strict_data": True,
        "lora_r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "lora_target_modules": lora.target_modules,
        **training_settings(config.model.quantization),
        **part.model_dump(exclude={"warmup_ratio"}),
        **({"warmup_ratio": part.warmup_ratio} if warms_up else {}),
        **tracking_settings(config.wandb, progress),
    }
    return make_settings(get_recipe("sft").config_class, values)
