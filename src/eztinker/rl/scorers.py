"""Scorers: who says how good an answer is, interchangeable: the data set's grader, a reward model, a judge.

A scorer gets many answers at once and returns a score and a grade for each. What a data set's grader knows stays in
``grading/``; models that score are asked through the client. Called by the recipes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eztinker.errors import InvalidRequestError
from eztinker.grading.judge import read_verdict
from eztinker.rl.candidates import JOB_TIMEOUT_S, Example, Policy, encode_prompt
from eztinker.rl.reward_token import reward_scores

Grade = Mapping[str, Any]
FAILED_VERDICT = "failed_verdict"
"""Strategy of a grade whose judge could not be understood."""


class Scorer(Protocol):
    """Scores answers."""

    def score(self, answers: Sequence[tuple[Example, str]]) -> list[Grade]:
        """One grade per answer: at least ``score``, ``is_correct``, ``confidence``, ``strategy``."""
        ...

    def figures_of(self, grades: Sequence[Grade]) -> dict[str, Any]:
        """What is to be said of grades that it gave, such as how many answers could not be judged."""
        ...


@dataclass
class DatasetScorer:
    """The data set's own grader (exact rules, then math-verify where it is switched on).

    Attributes:
        dataset: with ``evaluate_answer``.
        use_score: take the grader's score as it is; else 1 for a right answer and 0 for any other.
    """

    dataset: Any
    use_score: bool = False

    def score(self, answers: Sequence[tuple[Example, str]]) -> list[Grade]:
        """Grades.

        Raises:
            InvalidRequestError: a reference answer cannot be read.
        """
        return [self._grade(example, text) for example, text in answers]

    def _grade(self, example: Example, text: str) -> Grade:
        grade = dict(self.dataset.evaluate_answer(text, example.ground_truth, example.question))
        if grade.get("strategy") == "unparsable_ground_truth":
            raise InvalidRequestError(
                f"The reference answer of example {example.example_id} cannot be read: "
                f"{example.ground_truth[:80]!r}. Mend or remove the row.",
                code="unreadable_reference",
            )
        if not self.use_score:
            grade["score"] = float(bool(grade["is_correct"]))
        return grade

    def figures_of(self, grades: Sequence[Grade]) -> dict[str, Any]:
        """``num_unreadable``: answers without anything to compare, scored 0."""
        return {"num_unreadable": _count(grades, "no_answer")}


@dataclass
class RewardModelScorer:
    """A reward model trained by the recipe ``reward_model``; its scores have no bounds.

    Attributes:
        client: of the server.
        run_id: the run that scores.
        tokenizer: of its base model.
        reward_token: id whose log-probability is the score.
        correct_from: score from which an answer counts as right; None: none does by score alone.
    """

    client: Any
    run_id: str
    tokenizer: Any
    reward_token: int
    correct_from: float | None = None

    def score(self, answers: Sequence[tuple[Example, str]]) -> list[Grade]:
        """Grades."""
        sequences = [
            [
                *encode_prompt(self.tokenizer, example.prompt, example.question),
                *self.tokenizer.encode(text, add_special_tokens=False),
            ]
            for example, text in answers
        ]
        scores = reward_scores(self.client, self.run_id, sequences, self.reward_token)
        bound = self.correct_from
        return [
            {
                "score": score,
                "is_correct": bound is not None and score >= bound,
                "confidence": 0.5,
                "strategy": "reward_model",
            }
            for score in scores
        ]

    def figures_of(self, grades: Sequence[Grade]) -> dict[str, Any]:
        """Nothing."""
        del grades
        return {}


JUDGE_PROMPT = """You are a strict grader. Read the question, the reference answer and the answer of a student.

Question:
{question}

Reference answer:
{ground_truth}

Student's answer:
{answer}

How good is the student's answer, from 0 (useless or wrong) to 10 (right and clear)? Reply with one line:
Score: <number>"""


@dataclass
class JudgeScorer:
    """A language model that gives marks. A verdict that cannot be read is counted and scores 0 as wrong, never right.

    Attributes:
        client: of the server.
        policy: the judge.
        tokenizer: of its base model.
        prompt: text with ``{question}``, ``{ground_truth}`` and ``{answer}``.
        largest: the best mark; marks are divided by it.
        correct_from: share of the best mark from which an answer counts as right.
        max_new_tokens: of a verdict.
    """

    client: Any
    policy: Policy
    tokenizer: Any
    prompt: str = JUDGE_PROMPT
    largest: float = 10.0
    correct_from: float = 0.7
    max_new_tokens: int = 64

    def score(self, answers: Sequence[tuple[Example, str]]) -> list[Grade]:
        """Grades; all verdicts are asked for at once."""
        handles = [self._submit(example, text) for example, text in answers]
        return [self._read(handle) for handle in handles]

    def _submit(self, example: Example, text: str) -> Any:
        facts = {"question": example.question, "ground_truth": example.ground_truth, "answer": text}
        asked = self.prompt
        for name, value in facts.items():
            asked = asked.replace("{" + name + "}", value)
        return self.client.submit_sample(
            encode_prompt(self.tokenizer, None, asked),
            max_new_tokens=self.max_new_tokens,
            temperature=0.0,
            num_samples=1,
            **self.policy.as_arguments(),
        )

    def _read(self, handle: Any) -> Grade:
        (text,) = handle.result(JOB_TIMEOUT_S)
        mark = read_verdict(text, self.largest)
        share = 0.0 if mark is None else mark / self.largest
        return {
            "score": share,
            "is_correct": mark is not None and share >= self.correct_from,
            "confidence": 0.0 if mark is None else 0.5,
            "strategy": FAILED_VERDICT if mark is None else "judge",
            "verdict": text,
        }

    def figures_of(self, grades: Sequence[Grade]) -> dict[str, Any]:
        """``num_judged`` and ``num_failed_verdicts``."""
        return {"num_judged": len(grades), "num_failed_verdicts": _count(grades, FAILED_VERDICT)}


def _count(grades: Sequence[Grade], strategy: str) -> int:
    return sum(grade.get("strategy") == strategy for grade in grades)
