"""Settings that every training recipe shares, under the names that users of TRL and transformers know.

Model, adapter, optimizer, schedule, amounts, folder, tracking. Recipes subclass it with their own keys and
defaults. Knows no server.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.settings import RecipeConfig
from eztinker.rl.schedule import Schedule, ScheduleName
from eztinker.rl.training import AdamW

TrackerName = Literal["log", "tensorboard", "wandb", "trackio"]


def as_trackers(value: Any) -> Any:
    """``report_to: wandb`` is one name, ``none`` is no name, as in transformers."""
    values = [value] if isinstance(value, str) else value
    return [] if values == ["none"] else values


class TrainingConfig(RecipeConfig):
    """What every training recipe can be told."""

    may_change: ClassVar[frozenset[str]] = frozenset(
        {"logging_steps", "save_steps", "save_total_limit", "report_to", "run_name", "project",
         "overwrite_output_dir"}
    )  # fmt: skip

    model_name_or_path: str = Field(
        "nano", min_length=1, description="Base model, as the server knows it."
    )
    init_from: str | None = Field(
        None, description="Begin with this checkpoint's adapter: RUN_ID@CHECKPOINT."
    )
    output_dir: Path = Field(Path("experiment"), description="The experiment's folder.")
    overwrite_output_dir: bool = Field(
        False, description="Start afresh although the folder holds one."
    )

    lora_r: int = Field(8, ge=1, description="Rank of the adapter.")
    lora_alpha: float | None = Field(None, gt=0, description="Scaling; default twice the rank.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="On the adapter's input.")
    lora_target_modules: str | list[str] = Field("all-linear", description="Modules to adapt.")
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(r).")
    load_in_4bit: bool = Field(False, description="NF4 base weights (QLoRA).")
    load_in_8bit: bool = Field(False, description="int8 base weights.")

    learning_rate: float = Field(2e-4, gt=0, description="Peak learning rate of AdamW.")
    lr_scheduler_type: ScheduleName = Field(
        "constant", description="constant, constant_with_warmup, linear or cosine."
    )
    warmup_steps: int = Field(0, ge=0, description="Optimizer steps of linear warm-up.")
    warmup_ratio: float = Field(0.0, ge=0, lt=1, description="The same as a share of all steps.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Of the first moment.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Of the second moment.")
    adam_epsilon: float = Field(1e-8, gt=0, description="Of the division.")
    max_grad_norm: float | None = Field(1.0, gt=0, description="Gradient clipping; null is off.")

    num_train_epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps, instead of epochs.")
    per_device_train_batch_size: int = Field(8, ge=1, description="Examples per device batch.")
    gradient_accumulation_steps: int = Field(
        1, ge=1, description="Batches per optimizer step; the server cuts by memory itself."
    )

    logging_steps: int = Field(1, ge=1, description="Steps between two lines of the trackers.")
    save_steps: int | None = Field(None, ge=1, description="Steps between checkpoints.")
    save_total_limit: int | None = Field(None, ge=1, description="Newest checkpoints to keep.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of adapter, order, samples.")
    report_to: Annotated[list[TrackerName], BeforeValidator(as_trackers)] = Field(
        default_factory=list,
        description="Trackers: log (OUTPUT_DIR.log), tensorboard, wandb, trackio.",
    )
    run_name: str | None = Field(None, description="Name of the experiment in trackers.")
    project: str = Field("eztinker", description="Project in wandb and trackio.")

    def check_effect(self) -> None:
        """Refuse settings that another one switches off."""
        constant = self.lr_scheduler_type == "constant"
        for key in ("warmup_steps", "warmup_ratio"):
            has_effect = not constant or getattr(self, key) == 0
            self.needs(
                key, has_effect, "with lr_scheduler_type constant (use constant_with_warmup)"
            )
        if self.warmup_steps and self.warmup_ratio:
            self.refuse("warmup_ratio", "warmup_ratio and warmup_steps are both given. Give one.")
        if self.load_in_4bit and self.load_in_8bit:
            self.refuse("load_in_8bit", "load_in_4bit and load_in_8bit are both true. Choose one.")
        if self.max_steps is not None:
            self.needs("num_train_epochs", False, "beside max_steps")
        if self.save_total_limit is not None and self.save_steps is None:
            self.refuse("save_total_limit", "save_total_limit has no effect without save_steps.")
        if not self.report_to:
            self.needs("run_name", False, "without report_to")
            self.needs("project", False, "without report_to")
        if self.init_from is not None and "@" not in self.init_from:
            self.refuse(
                "init_from", f"init_from must be RUN_ID@CHECKPOINT, got {self.init_from!r}."
            )

    @property
    def batch_size(self) -> int:
        """Examples per optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def num_steps(self, num_examples: int) -> int:
        """Optimizer steps of a training on so many examples; the last batch of an epoch may be smaller.

        Raises:
            InvalidRequestError: there is no example.
        """
        if num_examples < 1:
            raise InvalidRequestError("There is no example to train on.", code="empty_dataset")
        if self.max_steps is not None:
            return self.max_steps
        return max(1, math.ceil(math.ceil(num_examples / self.batch_size) * self.num_train_epochs))

    def schedule(self, num_steps: int) -> Schedule:
        """Learning rates of a training of so many steps."""
        warmup = self.warmup_steps or math.ceil(self.warmup_ratio * num_steps)
        return Schedule(self.lr_scheduler_type, self.learning_rate, num_steps, warmup)

    @property
    def adamw(self) -> AdamW:
        """The optimizer's settings."""
        betas = (self.adam_beta1, self.adam_beta2)
        return AdamW(self.weight_decay, betas, self.adam_epsilon, self.max_grad_norm)

    @property
    def run_arguments(self) -> dict[str, Any]:
        """Arguments of ``client.create_run``."""
        quantization = "nf4" if self.load_in_4bit else "int8" if self.load_in_8bit else None
        return {
            "base_model": self.model_name_or_path,
            "lora_rank": self.lora_r,
            "lora_alpha": 2 * self.lora_r if self.lora_alpha is None else self.lora_alpha,
            "lora_config": {
                "lora_dropout": self.lora_dropout,
                "target_modules": self.lora_target_modules,
                "use_rslora": self.use_rslora,
            },
            "quantization": quantization,
            "seed": self.seed,
        }
