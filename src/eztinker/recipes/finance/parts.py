"""The parts of the finance settings, edited by attribute as ``configs/config.py`` shows.

``SFT_CONFIG.learning_rate = 2e-4`` is checked at once: a misspelt attribute or a bad value is an error that names
the nearest attribute or the bound. Knows no file and no stage. Bundled by ``config.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.settings import refuse_unknown
from eztinker.rl.schedule import ScheduleName

QuantizationChoice = Literal["auto", "none", "nf4", "int8"]
_QUANTIZATION = "Of the base weights: nf4, int8, none; auto: nf4 where the server can."


class Part(BaseModel):
    """Some settings, edited by attribute; every value is checked when it is set."""

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, validate_default=True, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        if isinstance(values, dict):
            refuse_unknown(values, cls.model_fields)
        return values

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_unknown({name: value}, type(self).model_fields)
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidRequestError(
                f"{name}: {first['msg']}, got {value!r}.", field=name
            ) from error


class TeacherConfig(Part):
    """Who writes the reasoning (stage 2)."""

    model_name: str = Field(
        default="deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        min_length=1,
        description="Base model or folder.",
    )
    quantization: QuantizationChoice = Field(default="auto", description=_QUANTIZATION)
    max_new_tokens: int = Field(default=1024, ge=1, description="Most tokens of an answer.")
    temperature: float = Field(default=0.6, ge=0, description="Of the answers; 0 is greedy.")
    top_p: float = Field(default=0.95, gt=0, le=1, description="Nucleus mass.")
    max_attempts: int = Field(
        default=3, ge=1, le=16, description="Times a question is asked until the form is right."
    )


class JudgeConfig(Part):
    """Who gives marks (stages 3, 5 and 6)."""

    model_name: str = Field(
        default="Qwen/Qwen2.5-7B-Instruct", min_length=1, description="Base model or folder."
    )
    quantization: QuantizationChoice = Field(default="auto", description=_QUANTIZATION)
    max_new_tokens: int = Field(default=256, ge=1, description="Most tokens of a verdict.")


class ModelConfig(Part):
    """Who is trained (stages 4 to 8)."""

    base_model: str = Field(
        default="Qwen/Qwen2.5-1.5B-Instruct", min_length=1, description="Base model or folder."
    )
    quantization: QuantizationChoice = Field(default="auto", description=_QUANTIZATION)
    model_max_length: int = Field(
        default=2048, ge=64, description="Most tokens of prompt and answer."
    )


class LoRAConfig(Part):
    """The adapter of stages 4 and 5."""

    r: int = Field(default=16, ge=1, description="Rank.")
    lora_alpha: float = Field(default=32, gt=0, description="Scaling.")
    lora_dropout: float = Field(default=0.05, ge=0, lt=1, description="On the adapter's input.")
    target_modules: str | list[str] = Field(
        default_factory=lambda: [
            *("q_proj", "k_proj", "v_proj", "o_proj"),
            *("gate_proj", "up_proj", "down_proj"),
        ],
        description="Modules to adapt.",
    )


class DataConfig(Part):
    """Which questions (stage 1), and how rows are split (stage 3)."""

    local_path: Path | None = Field(
        default=None, description="File or folder of questions; None asks ModelScope, then the hub."
    )
    custom_path: Path | None = Field(default=None, description="Further questions of your own.")
    total_samples: int = Field(default=1000, ge=1, description="Questions to keep.")
    type_shares: dict[str, float] = Field(
        default_factory=lambda: {
            "financial_calculation": 0.4,
            "concept_qa": 0.2,
            "business_reasoning": 0.2,
            "risk_analysis": 0.2,
        },
        description="Wanted share of each type.",
    )
    test_share: float = Field(
        default=0.2, gt=0, lt=1, description="Of the rows, held out for tests."
    )
    seed: int = Field(default=42, ge=0, lt=2**31, description="Of sampling and split.")


class FilterConfig(Part):
    """Which distilled rows are kept (stage 3)."""

    min_reasoning_chars: int = Field(default=20, ge=0, description="Shorter reasoning is none.")
    max_reasoning_chars: int = Field(default=8000, ge=1, description="Longer reasoning rambles.")
    min_judge_score: float = Field(
        default=6.0, ge=0, le=10, description="Least mean of the judge's four marks, 0 to 10."
    )


class SFTConfig(Part):
    """Stage 4."""

    num_train_epochs: float = Field(default=2, gt=0, description="Passes over sft.jsonl.")
    per_device_train_batch_size: int = Field(
        default=2, ge=1, description="Examples per device batch."
    )
    gradient_accumulation_steps: int = Field(
        default=8, ge=1, description="Batches per optimizer step."
    )
    learning_rate: float = Field(default=2e-4, gt=0, description="Peak learning rate of AdamW.")
    lr_scheduler_type: ScheduleName = Field(
        default="cosine", description="Shape of the learning rate."
    )
    warmup_ratio: float = Field(
        default=0.03, ge=0, lt=1, description="Share of steps that warm up."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay.")
    max_grad_norm: float | None = Field(
        default=1.0, gt=0, description="Gradient clipping; None is off."
    )
    logging_steps: int = Field(
        default=1, ge=1, description="Steps between two lines of log and trackers."
    )
    save_steps: int | None = Field(default=None, ge=1, description="Steps between checkpoints.")
    seed: int = Field(default=42, ge=0, lt=2**31, description="Of adapter and order.")


class GRPOConfig(Part):
    """Stage 5."""

    num_sample_generations: int = Field(default=4, ge=2, description="Answers to each prompt.")
    temperature: float = Field(default=0.7, gt=0, description="Of the answers.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Nucleus mass.")
    max_new_tokens: int = Field(default=512, ge=1, description="Most tokens of an answer.")
    kl_coef: float = Field(default=0.05, ge=0, description="Price of the KL to the SFT policy.")
    format_reward_weight: float = Field(default=0.3, ge=0, description="Weight of the form.")
    accuracy_reward_weight: float = Field(default=0.7, ge=0, description="Weight of the answer.")
    judge_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="The judge's share of the accuracy reward; the rest is the rules'.",
    )
    num_train_epochs: float = Field(default=1, gt=0, description="Passes over rl.jsonl.")
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps, instead of epochs."
    )
    prompts_per_step: int = Field(default=8, ge=1, description="Questions of an optimizer step.")
    learning_rate: float = Field(default=2e-5, gt=0, description="Peak learning rate of AdamW.")
    lr_scheduler_type: ScheduleName = Field(
        default="constant", description="Shape of the learning rate."
    )
    max_grad_norm: float | None = Field(
        default=1.0, gt=0, description="Gradient clipping; None is off."
    )
    logging_steps: int = Field(
        default=1, ge=1, description="Steps between two lines of log and trackers."
    )
    save_steps: int | None = Field(default=None, ge=1, description="Steps between checkpoints.")
    seed: int = Field(default=42, ge=0, lt=2**31, description="Of order and answers.")


class EvaluationConfig(Part):
    """Stages 6 and 8."""

    max_samples: int | None = Field(default=None, ge=1, description="The first so many test rows.")
    max_new_tokens: int = Field(default=512, ge=1, description="Most tokens of an answer.")
    temperature: float = Field(default=0.0, ge=0, description="0 is greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Nucleus mass.")
    num_samples: int = Field(
        default=1, ge=1, le=256, description="Answers to each question, averaged."
    )
    vllm_url: str | None = Field(
        default=None, description="OpenAI-compatible server for --use_vllm; None starts vLLM here."
    )
    seed: int = Field(default=42, ge=0, lt=2**31, description="Of sampled answers.")


class DeployConfig(Part):
    """Stage 7."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to serve at.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to serve at; 0 takes a free one."
    )
    vllm_python: str | None = Field(
        default=None, description="Python that has vLLM, if it is not the one that runs this."
    )
    vllm_options: list[str] = Field(
        default_factory=list, description="Further words of vLLM's command line."
    )


class WandbConfig(Part):
    """Weights & Biases beside logs and metrics files; it never stops a training.

    Where wandb is not installed this is said once and training goes on; without a login the run is kept offline.
    """

    enabled: bool = Field(default=True, description="Track training with Weights & Biases.")
    project: str = Field(default="FTModel-Training", min_length=1, description="Project there.")
