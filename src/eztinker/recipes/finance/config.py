"""All settings of the finance pipeline as one bundle, where its files lie, and how ``configs/config.py`` is read.

The bundle is what every stage gets, from a script or from the recipe ``finance``. Knows no model and no data.
"""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from eztinker.dataset.finance import QUESTION_TYPES
from eztinker.errors import EZTinkerError, InvalidRequestError, NotFoundError
from eztinker.recipes.experiment.settings import RecipeConfig, refuse_unknown
from eztinker.recipes.finance.parts import (
    DataConfig,
    DeployConfig,
    EvaluationConfig,
    FilterConfig,
    GRPOConfig,
    JudgeConfig,
    LoRAConfig,
    ModelConfig,
    Part,
    QuantizationChoice,
    SFTConfig,
    TeacherConfig,
    WandbConfig,
)

VARIABLES = {
    "TEACHER_CONFIG": "teacher",
    "JUDGE_CONFIG": "judge",
    "MODEL_CONFIG": "model",
    "LORA_CONFIG": "lora",
    "DATA_CONFIG": "data",
    "FILTER_CONFIG": "filter",
    "SFT_CONFIG": "sft",
    "GRPO_CONFIG": "grpo",
    "EVAL_CONFIG": "evaluation",
    "DEPLOY_CONFIG": "deploy",
    "WANDB_CONFIG": "wandb",
}
"""Variable of ``configs/config.py`` -> part of the bundle."""
STAGE_OF_ADAPTER: dict[Literal["sft", "grpo"], int] = {"sft": 4, "grpo": 5}


@dataclass(frozen=True, slots=True)
class Paths:
    """The documented files and folders below a root."""

    root: Path

    @property
    def raw(self) -> Path:
        """Questions, stage 1."""
        return self.root / "dataraw" / "raw.jsonl"

    @property
    def distilled(self) -> Path:
        """Questions with the teacher's output, stage 2."""
        return self.root / "dataprocessed" / "distilled.jsonl"

    @property
    def sft_rows(self) -> Path:
        """Prompts and responses to train on, stage 3."""
        return self.root / "dataprocessed" / "sft.jsonl"

    @property
    def rl_rows(self) -> Path:
        """Prompts and gold answers to train on, stage 3."""
        return self.root / "dataprocessed" / "rl.jsonl"

    @property
    def test_rows(self) -> Path:
        """Held-out prompts and gold answers, stage 3."""
        return self.root / "dataprocessed" / "test.jsonl"

    @property
    def filter_stats(self) -> Path:
        """What was kept and why the rest was not, stage 3."""
        return self.root / "dataprocessed" / "filter_stats.json"

    @property
    def sft_lora(self) -> Path:
        """PEFT folder, stage 4."""
        return self.root / "ckpts" / "sft_lora"

    @property
    def grpo_lora(self) -> Path:
        """PEFT folder, stage 5."""
        return self.root / "ckpts" / "grpo_lora"

    @property
    def merged_model(self) -> Path:
        """Whole model, stage 7."""
        return self.root / "ckpts" / "merged_model"

    @property
    def reports(self) -> Path:
        """Reports of stages 6 and 8."""
        return self.root / "reports"

    @property
    def logs(self) -> Path:
        """Logs of stages 4 and 5."""
        return self.root / "logs"


class FinanceConfig(RecipeConfig):
    """Settings of the finance pipeline; ``sft.learning_rate=1e-4`` on a command line."""

    root: Path = Field(
        Path(), description="Folder of dataraw, dataprocessed, ckpts, reports, logs."
    )
    use_judge: bool = Field(True, description="Ask the judge in stages 3, 5 and 6.")
    overwrite: bool = Field(False, description="Begin a stage afresh although its output exists.")
    teacher: TeacherConfig = Field(default_factory=TeacherConfig, description="Stage 2.")
    judge: JudgeConfig = Field(default_factory=JudgeConfig, description="Stages 3, 5 and 6.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="The trained model.")
    lora: LoRAConfig = Field(default_factory=LoRAConfig, description="Its adapter.")
    data: DataConfig = Field(default_factory=DataConfig, description="Stages 1 and 3.")
    filter: FilterConfig = Field(default_factory=FilterConfig, description="Stage 3.")
    sft: SFTConfig = Field(default_factory=SFTConfig, description="Stage 4.")
    grpo: GRPOConfig = Field(default_factory=GRPOConfig, description="Stage 5.")
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="Stage 6.")
    deploy: DeployConfig = Field(default_factory=DeployConfig, description="Stage 7.")
    wandb: WandbConfig = Field(default_factory=WandbConfig, description="Weights & Biases.")

    def check_effect(self) -> None:
        """What one part alone cannot know."""
        refuse_unknown(self.data.type_shares, QUESTION_TYPES)
        shares = self.data.type_shares.values()
        if min(shares, default=0) < 0 or sum(shares) <= 0:
            self.refuse(
                "data.type_shares", "data.type_shares: shares are at least 0, and one above."
            )
        if self.grpo.format_reward_weight + self.grpo.accuracy_reward_weight <= 0:
            self.refuse(
                "grpo.accuracy_reward_weight",
                "grpo: both reward weights are 0, so nothing is rewarded.",
            )
        if self.filter.min_reasoning_chars > self.filter.max_reasoning_chars:
            self.refuse(
                "filter.min_reasoning_chars",
                "filter: min_reasoning_chars exceeds max_reasoning_chars.",
            )
        if self.teacher.temperature == 0 and self.teacher.max_attempts > 2:
            self.refuse(
                "teacher.max_attempts",
                "teacher.max_attempts above 2 needs a temperature above 0: the reminder changes a greedy answer once.",
            )
        evaluation = self.evaluation
        if evaluation.num_samples > 1 and evaluation.temperature == 0:
            self.refuse(
                "evaluation.num_samples",
                "evaluation.num_samples above 1 needs a temperature above 0; greedy answers are alike.",
            )

    @property
    def paths(self) -> Paths:
        """Where everything lies."""
        return Paths(self.root)

    @property
    def model_name_or_path(self) -> str:
        """Of a server that is started for this."""
        return self.model.base_model

    @property
    def output_dir(self) -> Path:
        """Where a server that is started for this keeps its state."""
        return self.root / "ckpts"

    def with_quantization(self, quantization: QuantizationChoice | None) -> FinanceConfig:
        """The same settings with every model so quantised; None changes nothing."""
        if quantization is None:
            return self
        return self.with_parts(
            **{name: {"quantization": quantization} for name in ("teacher", "judge", "model")}
        )

    def with_parts(self, **changes: Mapping[str, Any]) -> FinanceConfig:
        """The same settings with values of parts changed: ``with_parts(sft={"num_train_epochs": 1})``."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        for name, change in changes.items():
            part: Part = getattr(self, name).model_copy(deep=True)
            for key, value in change.items():
                setattr(part, key, value)
            values[name] = part
        return type(self)(**values)

    def adapter(self, kind: Literal["sft", "grpo"]) -> Path:
        """The PEFT folder that a training stage wrote.

        Raises:
            NotFoundError: the stage has not run; the message says which.
            InvalidRequestError: a whole model lies there.
        """
        folder = self.paths.sft_lora if kind == "sft" else self.paths.grpo_lora
        if (folder / "config.json").is_file():
            raise InvalidRequestError(
                f"{folder} holds a whole model, and a LoRA adapter is expected there. To evaluate a whole model, name it: "
                f"python scripts/6_evaluate.py --model_path {folder}",
                code="is_whole_model",
                field="model_path",
            )
        if not (folder / "adapter_config.json").is_file():
            script = {"sft": "scripts/4_train_sft.py", "grpo": "scripts/5_train_grpo.py"}[kind]
            raise NotFoundError(
                f"{folder} holds no adapter. Run stage {STAGE_OF_ADAPTER[kind]} first: python {script}",
                code="stage_missing",
                field="stages",
            )
        return folder


def read_config_file(path: Path) -> dict[str, Part]:
    """The parts that a ``configs/config.py`` defines, by their names in the bundle.

    Raises:
        NotFoundError: no such file.
        InvalidRequestError: it is no Python, a name in it is unknown, or a variable is no settings part.
    """
    if not path.is_file():
        raise NotFoundError(f"No settings file at {path}.", field="config", code="file_not_found")
    try:
        held = runpy.run_path(str(path))
        refuse_unknown({n: v for n, v in held.items() if n.endswith("_CONFIG")}, VARIABLES)
    except EZTinkerError as error:
        error.message = f"{path}: {error.message}"
        raise
    except Exception as error:  # whatever a settings file of the user's does wrong
        raise InvalidRequestError(
            f"{path}: {type(error).__name__}: {error}.", field="config", code="bad_settings_file"
        ) from error
    parts = {name: held[variable] for variable, name in VARIABLES.items() if variable in held}
    for name, part in parts.items():
        expected = FinanceConfig.model_fields[name].annotation
        if not (isinstance(expected, type) and isinstance(part, expected)):
            raise InvalidRequestError(
                f"{path}: the settings {name} must be a {getattr(expected, '__name__', name)}, got "
                f"{type(part).__name__}. Set its attributes instead of replacing it.",
                field="config",
            )
    return parts
