"""Accuracy of a run on held-out examples, with its uncertainty.

Samples answers and has the data set grade them; trains nothing. Called by the recipes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eztinker.errors import InvalidRequestError
from eztinker.rl.candidates import Candidate, CandidateParams, Example, sample_candidates

Z_95 = 1.959964
"""Quantile of the normal distribution that leaves 2.5 % on either side."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How many answers were right.

    Attributes:
        num_correct: answers that the data set's grader accepted.
        num_examples: answers in all, at least 1.
        mean_score: mean of the grader's scores, 0 to 1.
        num_unverified: answers for which math-verify was wanted but did not answer.
    """

    num_correct: int
    num_examples: int
    mean_score: float
    num_unverified: int = 0

    @property
    def value(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.num_correct / self.num_examples

    @property
    def ci95(self) -> tuple[float, float]:
        """Wilson 95 % interval of the share."""
        return wilson_interval(self.num_correct, self.num_examples)


def wilson_interval(num_correct: float, num_examples: int, z: float = Z_95) -> tuple[float, float]:
    """Score interval of a share (Wilson, 1927): inside [0, 1] and honest also near its ends.

    ``num_correct`` may be a sum of shares. With p = k / n: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    Raises:
        InvalidRequestError: not 0 <= num_correct <= num_examples, or no examples.
    """
    if num_examples < 1 or not 0 <= num_correct <= num_examples:
        raise InvalidRequestError(
            f"Expected 0 <= num_correct <= num_examples and at least one example, got {num_correct} of "
            f"{num_examples}."
        )
    share = num_correct / num_examples
    shrink = 1 + z * z / num_examples
    middle = (share + z * z / (2 * num_examples)) / shrink
    spread = share * (1 - share) / num_examples + (z / (2 * num_examples)) ** 2
    half = z * math.sqrt(spread) / shrink
    low = 0.0 if num_correct == 0 else max(0.0, middle - half)
    high = 1.0 if num_correct == num_examples else min(1.0, middle + half)
    return low, high


def measure_accuracy(
    client: Any,
    run_id: str,
    tokenizer: Any,
    dataset: Any,
    examples: Sequence[Example],
    params: CandidateParams,
    *,
    seed: int = 0,
    track: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Accuracy:
    """Answer every example once with the run's current weights and grade the answers.

    Args:
        params: ``params.greedy()`` for the documented accuracy; a temperature above 0 for sampled answers.
        seed: of the sampled answers; greedy ones need none.
        track: is handed the answers as they come, for a progress bar.
    """
    if not examples:
        raise InvalidRequestError("There is no example to evaluate.", field="eval_size")
    answers = sample_candidates(
        client, run_id, tokenizer, examples, params, seed=seed, purpose="evaluation"
    )
    grades = [_grade(dataset, example, answer[0]) for example, answer in track(answers)]
    return Accuracy(
        num_correct=sum(bool(grade["is_correct"]) for grade in grades),
        num_examples=len(grades),
        mean_score=sum(grade["score"] for grade in grades) / len(grades),
        num_unverified=sum(is_unverified(grade) for grade in grades),
    )


def is_unverified(grade: dict[str, Any]) -> bool:
    """Whether math-verify should have looked at this answer and could not."""
    return grade.get("math_verify") in ("unavailable", "timeout")


def _grade(dataset: Any, example: Example, answer: Candidate) -> dict[str, Any]:
    return dataset.evaluate_answer(str(answer), example.ground_truth, example.question)
