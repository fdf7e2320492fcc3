"""Who rewards answers in a recipe: the keys that name a scorer, and the scorer itself.

Called by GRPO and whatever is built on it. What a scorer does is in ``rl/scorers.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.session import Session, frozen_run, lora_of
from eztinker.recipes.question_data import QuestionConfig, Questions
from eztinker.rl.candidates import Policy
from eztinker.rl.reward_token import reward_token_id
from eztinker.rl.scorers import (
    JUDGE_PROMPT,
    DatasetScorer,
    JudgeScorer,
    RewardModelScorer,
    Scorer,
)
from eztinker.rl.training_run import find_run

_PLACES = ("{question}", "{ground_truth}", "{answer}")


class RewardConfig(QuestionConfig):
    """Keys about the reward."""

    reward: Literal["exact", "score", "reward_model", "judge"] = Field(
        "exact", description="1 for a right answer; the grader's score; a reward model; a judge."
    )
    reward_model: str | None = Field(None, description="Reward model as RUN_ID@CHECKPOINT.")
    reward_token: str | None = Field(None, description="The token that the reward model reads.")
    judge_model: str | None = Field(
        None, description="Judge: a base model's name or RUN_ID@CHECKPOINT."
    )
    judge_prompt_file: Path | None = Field(
        None, description="Text with {question}, {ground_truth} and {answer}."
    )

    def check_effect(self) -> None:
        """A model that scores is named where one is wanted."""
        super().check_effect()
        is_model, is_judge = self.reward == "reward_model", self.reward == "judge"
        self.needs("reward_model", is_model, f"with reward {self.reward}")
        self.needs("reward_token", is_model, f"with reward {self.reward}")
        self.needs("judge_model", is_judge, f"with reward {self.reward}")
        self.needs("judge_prompt_file", is_judge, f"with reward {self.reward}")
        if is_model and (self.reward_model is None or "@" not in self.reward_model):
            self.refuse("reward_model", "reward reward_model needs reward_model=RUN_ID@CHECKPOINT.")
        if is_judge and self.judge_model is None:
            self.refuse("judge_model", "reward judge needs judge_model=NAME.")


def scorer_of(session: Session, config: RewardConfig, questions: Questions) -> Scorer:
    """The scorer that the settings name.

    Raises:
        NotFoundError: the reward model's or judge's run is not on the server.
    """
    if config.reward in ("exact", "score"):
        return DatasetScorer(questions.dataset, use_score=config.reward == "score")
    if config.reward == "judge":
        return _judge(session, config)
    assert config.reward_model is not None
    source = find_run(session.client, config.reward_model.rpartition("@")[0])
    run_id = frozen_run(
        session, "reward_model", source["base_model"], config.reward_model, **lora_of(source)
    )
    tokenizer = session.client.get_tokenizer(source["base_model"])
    token = reward_token_id(tokenizer, config.reward_token)
    return RewardModelScorer(session.client, run_id, tokenizer, token)


def _judge(session: Session, config: RewardConfig) -> JudgeScorer:
    name: Any = config.judge_model
    run_id, at, checkpoint = name.rpartition("@")
    if at:
        policy = Policy(run_id=run_id, checkpoint=checkpoint)
        base_model = find_run(session.client, run_id)["base_model"]
    else:
        policy, base_model = Policy(base_model=name), name
    tokenizer = session.client.get_tokenizer(base_model)
    return JudgeScorer(session.client, policy, tokenizer, _judge_prompt(config.judge_prompt_file))


def _judge_prompt(path: Path | None) -> str:
    if path is None:
        return JUDGE_PROMPT
    if not path.is_file():
        raise InvalidRequestError(f"No judge prompt at {path}.", field="judge_prompt_file")
    text = path.read_text(encoding="utf-8")
    missing = [place for place in _PLACES if place not in text]
    if missing:
        raise InvalidRequestError(
            f"{path} must hold {', '.join(_PLACES)}; {missing[0]} is missing.",
            field="judge_prompt_file",
        )
    return text
