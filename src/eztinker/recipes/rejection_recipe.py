"""Rejection-sampling SFT with settings from YAML: the same work as the scripts, under the keys of the other recipes.

The algorithm, its buffer and its way of continuing are in ``rejection_sft.py``; this file only turns settings into it
and keeps ``config.yaml`` and ``metrics.jsonl`` beside its results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from eztinker.dataset.base import get_dataset
from eztinker.dataset.sharegpt import ShareGPTDataset
from eztinker.grading.overlap import Similarity
from eztinker.recipes.experiment.folder import Experiment
from eztinker.recipes.experiment.plan import SHOWN_EXAMPLES, Plan
from eztinker.recipes.experiment.settings import RecipeConfig
from eztinker.recipes.held_out import hold_out
from eztinker.recipes.rejection_config import RejectionSFTConfig
from eztinker.recipes.rejection_sft import run_rejection_sft
from eztinker.recipes.rejection_state import PLOT_FILE
from eztinker.recipes.scored_dataset import ScoredDataset, ScorerChoice, ScorerName
from eztinker.recipes.terminal import Progress, SilentProgress
from eztinker.rl.candidates import DEFAULT_STOP, examples_of

NAME = "rejection_sft"
GENERATED, CONVERSATIONS = "generated-", "sharegpt"


class RejectionRecipeConfig(RecipeConfig):
    """Settings of rejection-sampling SFT."""

    may_change: ClassVar[frozenset[str]] = frozenset({"num_train_epochs", "overwrite_output_dir"})

    model_name_or_path: str = Field("nano", min_length=1, description="Base model.")
    dataset_name: str = Field(
        "generated-math", description="gsm8k, math, aqua, sharegpt, generated-math, …"
    )
    data_path: Path | None = Field(None, description="Its file, or its folder with train and test.")
    output_dir: Path = Field(Path("experiment"), description="The experiment's folder.")
    overwrite_output_dir: bool = Field(False, description="Start afresh.")
    max_train_samples: int = Field(100, ge=1, description="Questions.")
    eval_size: int = Field(100, ge=1, description="Held-out questions.")
    num_generations: int = Field(4, ge=1, description="Candidates of each question.")
    num_train_epochs: int = Field(3, ge=1, description="Rounds of selection and training.")
    temperature: float = Field(0.8, gt=0, description="Of the candidates.")
    max_completion_length: int = Field(256, ge=1, description="Most tokens of a candidate.")
    stop: list[str] = Field(
        default_factory=lambda: list(DEFAULT_STOP), description="Texts that end a candidate."
    )
    max_length: int | None = Field(None, ge=2, description="Most tokens of prompt and candidate.")
    learning_rate: float = Field(2e-4, gt=0, description="Of AdamW.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    max_grad_norm: float | None = Field(1.0, gt=0, description="Gradient clipping; null is off.")
    per_device_train_batch_size: int = Field(8, ge=1, description="Candidates per step.")
    lora_r: int = Field(1, ge=1, description="Rank of the adapter.")
    lora_alpha: float | None = Field(None, gt=0, description="Scaling; default twice the rank.")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="On the adapter's input.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of adapter, order, candidates.")
    scorer: ScorerName = Field("math-verify", description="Who grades candidates.")
    reward_model: str | None = Field(None, description="RUN_ID@CHECKPOINT, for reward-model.")
    judge_model: str | None = Field(None, description="A name or RUN_ID@CHECKPOINT, for judge.")
    similarity: Similarity = Field("word_f1", description="sharegpt: word_f1 or rouge_l.")
    similarity_threshold: float = Field(
        0.5, gt=0, le=1, description="sharegpt: likeness from which a reply counts as right."
    )
    train_on_incorrect: bool = Field(
        False, description="Train on the best candidate whatever its grade."
    )
    save_epochs: bool = Field(False, description="Save rejection_sft_epoch_<k> after each epoch.")

    def check_effect(self) -> None:
        """Keys of conversations need conversations; generated problems read no file."""
        is_chat = self.dataset_name == CONVERSATIONS
        self.needs("similarity", is_chat, "unless dataset_name is sharegpt")
        self.needs("similarity_threshold", is_chat, "unless dataset_name is sharegpt")
        self.needs("data_path", not self.dataset_name.startswith(GENERATED), "with generated data")
        if is_chat and self.data_path is None:
            self.refuse("data_path", "dataset_name sharegpt needs data_path=FILE.")
        self.choice  # refuses a scorer without its model  # noqa: B018

    @property
    def choice(self) -> ScorerChoice:
        """Who grades."""
        return ScorerChoice(self.scorer, self.reward_model, self.judge_model)

    def as_rejection(self) -> RejectionSFTConfig:
        """The settings of the algorithm."""
        return RejectionSFTConfig(
            base_model=self.model_name_or_path,
            max_samples=self.max_train_samples,
            num_candidates=self.num_generations,
            epochs=self.num_train_epochs,
            learning_rate=self.learning_rate,
            temperature=self.temperature,
            eval_size=self.eval_size,
            checkpoint=self.save_epochs,
            output_dir=self.output_dir,
            reset_buffer=self.overwrite_output_dir,
            seed=self.seed,
            lora_rank=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            batch_size=self.per_device_train_batch_size,
            max_new_tokens=self.max_completion_length,
            max_length=self.max_length,
            stop=tuple(self.stop),
            weight_decay=self.weight_decay,
            grad_clip_norm=self.max_grad_norm,
            train_on_incorrect=self.train_on_incorrect or self.choice.is_unbounded,
        )


Config = RejectionRecipeConfig


def run(
    config: RejectionRecipeConfig, client: Any, progress: Progress | None = None
) -> dict[str, Any]:
    """Run, or continue; figures in JSON types.

    Returns:
        ``run_id``, ``accuracy_before``, ``accuracy_after`` with ``accuracy_after_ci95``, ``num_trained``, ``plot``, and
        what a judge counted.
    """
    train, held_out = _splits(config, client)
    experiment = Experiment.open(
        config.output_dir, NAME, config, overwrite=config.overwrite_output_dir
    )
    train = config.choice.wrap(client, train)
    report = run_rejection_sft(
        config.as_rejection(),
        client,
        train,
        held_out,
        progress or SilentProgress(),
    )
    for kind, lines in (("epoch", report.training_metrics), ("eval", report.evaluations)):
        for line in lines:
            if not experiment.has(kind, line["epoch"]):
                experiment.log(kind, line["epoch"], **line)
    return {
        "run_id": report.run_id,
        "accuracy_before": report.evaluations[0]["accuracy"],
        "accuracy_after": report.evaluations[-1]["accuracy"],
        "accuracy_after_ci95": report.evaluations[-1]["ci95"],
        "num_trained": report.num_trained,
        **(train.figures() if isinstance(train, ScoredDataset) else {}),
        "plot": str(config.output_dir / PLOT_FILE),
    }


def _splits(config: RejectionRecipeConfig, client: Any) -> tuple[Any, Any]:
    name, path = config.dataset_name, config.data_path
    if name == CONVERSATIONS:
        assert path is not None
        whole: Any = ShareGPTDataset(
            path,
            client.get_tokenizer(config.model_name_or_path),
            config.max_length or 2048,
            strict=False,
            similarity=config.similarity,
            correct_from=config.similarity_threshold,
        )
        return hold_out(whole, config.max_train_samples, config.eval_size)
    given: dict[str, Any] = {}
    if name in ("gsm8k", "math"):
        given["use_math_verify"] = config.choice.uses_math_verify
    if path is not None:
        given["data_path"] = path
    if path is not None and path.is_file():
        return hold_out(get_dataset(name, **given), config.max_train_samples, config.eval_size)
    train = get_dataset(name, split="train", max_samples=config.max_train_samples, **given)
    return train, get_dataset(name, split="test", max_samples=config.eval_size, **given)


def plan(config: RejectionRecipeConfig, client: Any) -> Plan:
    """What ``run`` would do."""
    train, held_out = _splits(config, client)
    num_questions = min(len(train), config.max_train_samples)
    facts = {
        "model": config.model_name_or_path,
        "questions": num_questions,
        "held_out_questions": min(len(held_out), config.eval_size),
        "candidates_in_all": num_questions * config.num_generations * config.num_train_epochs,
        "steps_at_most": -(-num_questions // config.per_device_train_batch_size)
        * config.num_train_epochs,
        "scorer": config.scorer,
    }
    shown = [example.prompt for example in examples_of(train, SHOWN_EXAMPLES)]
    return Plan(NAME, facts, shown, [], config.resolved())
