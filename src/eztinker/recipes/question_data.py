"""Questions to sample answers to, and questions held out: the keys that name them, and reading them.

Called by the recipes that sample (GRPO, RLHF, on-policy distillation).
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from eztinker.dataset.base import get_dataset
from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.session import Session
from eztinker.recipes.experiment.training_settings import TrainingConfig
from eztinker.recipes.held_out import hold_out
from eztinker.recipes.terminal import pick
from eztinker.rl.candidates import DEFAULT_STOP, CandidateParams, Example, examples_of
from eztinker.rl.rollouts import RolloutParams
from eztinker.rl.scorecard import EvaluationParams, Scorecard, evaluate_examples
from eztinker.rl.scorers import Scorer

GENERATED = "generated-"


class QuestionConfig(TrainingConfig):
    """Keys about questions, samples and evaluation."""

    dataset_name: str = Field(
        "generated-math", description="Data set by name: gsm8k, math, aqua, generated-math, …"
    )
    data_path: Path | None = Field(None, description="Its file, or its folder with train and test.")
    max_train_samples: int | None = Field(None, ge=1, description="Use the first questions only.")
    eval_size: int = Field(100, ge=0, description="Held-out questions; 0 evaluates never.")
    eval_steps: int | None = Field(None, ge=1, description="Steps between evaluations.")
    num_generations: int = Field(8, ge=1, description="Answers to each question.")
    temperature: float = Field(1.0, gt=0, description="Of the answers.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus of the answers.")
    top_k: int = Field(-1, ge=-1, description="Likeliest tokens; -1 is off.")
    max_completion_length: int = Field(256, ge=1, description="Most tokens of an answer.")
    stop: list[str] = Field(
        default_factory=lambda: list(DEFAULT_STOP), description="Texts that end an answer."
    )

    def check_effect(self) -> None:
        """Whole groups; data that are read have a path, generated ones have none."""
        super().check_effect()
        self.needs("data_path", not self.dataset_name.startswith(GENERATED), "with generated data")
        if self.batch_size % self.num_generations:
            self.refuse(
                "num_generations",
                f"per_device_train_batch_size x gradient_accumulation_steps ({self.batch_size} answers a step) must "
                f"be a multiple of num_generations ({self.num_generations}).",
            )
        self.needs("eval_steps", self.eval_size > 0, "with eval_size 0")

    @property
    def questions_per_step(self) -> int:
        """Groups of one step."""
        return self.batch_size // self.num_generations

    @property
    def rollout_params(self) -> RolloutParams:
        """How answers are sampled for training."""
        return RolloutParams(
            self.num_generations,
            self.temperature,
            self.top_p,
            self.top_k,
            self.max_completion_length,
            tuple(self.stop),
        )

    @property
    def evaluation_params(self) -> EvaluationParams:
        """Greedy, once."""
        return EvaluationParams(
            CandidateParams(1, 0.0, self.max_completion_length, tuple(self.stop))
        )


@dataclass(frozen=True)
class Questions:
    """What is asked in training and what is held out."""

    dataset: Any
    examples: list[Example]
    held_out: Any
    held_out_examples: list[Example]

    def evaluate(
        self, session: Session, step: int, scorer: Scorer | None = None
    ) -> Scorecard | None:
        """Accuracy on the held-out questions, once for each step; None when it is known or not asked for.

        Args:
            scorer: also asked for the mean ``reward`` of the answers.
        """
        config = session.config
        assert isinstance(config, QuestionConfig)
        if not self.held_out_examples or session.experiment.has("eval", step):
            return None
        label = pick("evaluation", "评估")
        card = evaluate_examples(
            session.client,
            session.run_id,
            session.tokenizer,
            self.held_out,
            self.held_out_examples,
            config.evaluation_params,
            track=lambda answers: session.progress.track(
                label, answers, len(self.held_out_examples)
            ),
        )
        figures = card.figures()
        if scorer is not None:
            answers = [(one.example, text) for one in card.answered for text in one.texts]
            figures["reward"] = statistics.fmean(grade["score"] for grade in scorer.score(answers))
        session.experiment.log("eval", step, **figures)
        return card


def read_questions(config: QuestionConfig) -> Questions:
    """Read the data set that the settings name; of a single file its last rows are held out.

    Raises:
        NotFoundError: no such data set, or no data.
        InvalidRequestError: an empty split (``code="empty_dataset"``).
    """
    train, held_out = _splits(config)
    examples = examples_of(train, config.max_train_samples)
    held_out_examples = examples_of(held_out, config.eval_size)
    if not examples:
        raise InvalidRequestError(
            f"{config.dataset_name} has no question to train on.",
            code="empty_dataset",
            field="dataset_name",
        )
    return Questions(train, examples, held_out, held_out_examples)


def _splits(config: QuestionConfig) -> tuple[Any, Any]:
    name, path = config.dataset_name, config.data_path
    size = max(1, config.eval_size)
    if path is not None and path.is_file():
        whole = get_dataset(name, data_path=path)
        return hold_out(whole, config.max_train_samples or len(whole), size)
    given: dict[str, Any] = {} if path is None else {"data_path": path}
    train = get_dataset(name, split="train", max_samples=config.max_train_samples, **given)
    return train, get_dataset(name, split="test", max_samples=size, **given)
