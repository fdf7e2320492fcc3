"""A data set whose answers are graded by a scorer: rejection sampling with a reward model or a judge.

Rows and prompts are the data set's; only the grades change. Also the settings of that choice, which doors and
recipes share. Called by the rejection-sampling recipe and its doors.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.session import lora_of, make_frozen
from eztinker.rl.candidates import Example, Policy
from eztinker.rl.reward_token import reward_token_id
from eztinker.rl.scorers import JudgeScorer, RewardModelScorer, Scorer
from eztinker.rl.training_run import find_run

ScorerName = Literal["exact", "math-verify", "reward-model", "judge"]


@dataclass(frozen=True)
class ScorerChoice:
    """Who grades candidates.

    Attributes:
        name: ``exact`` (the data set's rules), ``math-verify`` (with the library), ``reward-model`` or ``judge``.
        reward_model: ``RUN_ID@CHECKPOINT``, for ``reward-model``.
        judge_model: name of a base model, or ``RUN_ID@CHECKPOINT``, for ``judge``.
    """

    name: ScorerName = "math-verify"
    reward_model: str | None = None
    judge_model: str | None = None

    def __post_init__(self) -> None:
        wants = {"reward-model": self.reward_model, "judge": self.judge_model}
        for name, model in wants.items():
            if (self.name == name) != (model is not None):
                option = name.replace("-model", "") + "_model"
                raise InvalidRequestError(
                    f"scorer {name} and {option}=… go together, got scorer {self.name} and {option} {model!r}.",
                    field=option,
                )

    @property
    def uses_math_verify(self) -> bool:
        """Whether the library compares what the rules cannot read."""
        return self.name == "math-verify"

    @property
    def is_unbounded(self) -> bool:
        """Whether scores have no "right": then the best candidate is trained on whatever its score."""
        return self.name == "reward-model"

    def wrap(self, client: Any, dataset: Any) -> Any:
        """The data set, graded by this scorer."""
        if self.name in ("exact", "math-verify"):
            return dataset
        return ScoredDataset(dataset, self._scorer(client))

    def _scorer(self, client: Any) -> Scorer:
        if self.name == "judge":
            return _judge(client, str(self.judge_model))
        return _reward_model(client, str(self.reward_model))


def _judge(client: Any, model: str) -> JudgeScorer:
    run_id, at, checkpoint = model.rpartition("@")
    policy = Policy(run_id=run_id, checkpoint=checkpoint) if at else Policy(base_model=model)
    base_model = find_run(client, run_id)["base_model"] if at else model
    return JudgeScorer(client, policy, client.get_tokenizer(base_model))


def _reward_model(client: Any, checkpoint: str) -> RewardModelScorer:
    source_id, at, _ = checkpoint.rpartition("@")
    if not at:
        raise InvalidRequestError(
            f"reward_model must be RUN_ID@CHECKPOINT, got {checkpoint!r}.", field="reward_model"
        )
    source = find_run(client, source_id)
    run_id = f"reward-{zlib.crc32(checkpoint.encode()):08x}"
    make_frozen(client, run_id, source["base_model"], checkpoint, **lora_of(source))
    tokenizer = client.get_tokenizer(source["base_model"])
    return RewardModelScorer(client, run_id, tokenizer, reward_token_id(tokenizer))


class ScoredDataset:
    """A data set behind a scorer.

    Args:
        dataset: rows and prompts.
        scorer: grades.
    """

    def __init__(self, dataset: Any, scorer: Scorer) -> None:
        self._dataset = dataset
        self.scorer = scorer
        self._prompts: dict[str, str] = {}
        self._grades: list[Mapping[str, Any]] = []

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row ``index``."""
        return self._dataset[index]

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        """``(question, prompt, ground_truth)``."""
        question, prompt, truth = self._dataset.get_example_question(index)
        self._prompts[question] = prompt
        return question, prompt, truth

    def evaluate_answer(
        self, generated_text: str, ground_truth: str, question: str = ""
    ) -> dict[str, Any]:
        """One grade."""
        return self.evaluate_answers([generated_text], ground_truth, question)[0]

    def evaluate_answers(
        self, texts: Sequence[str], ground_truth: str, question: str = ""
    ) -> list[dict[str, Any]]:
        """Grades of several answers to one question, asked for together."""
        example = Example(0, question, self._prompts.get(question, ""), ground_truth)
        grades = self.scorer.score([(example, text) for text in texts])
        self._grades += grades
        return [dict(grade) for grade in grades]

    def figures(self) -> dict[str, Any]:
        """What the scorer has to say of all grades so far."""
        return self.scorer.figures_of(self._grades)
