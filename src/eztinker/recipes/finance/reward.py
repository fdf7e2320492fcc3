"""The reward of stage 5: weight x form + weight x accuracy, every part written down for each rollout.

The form is 1 for ``<think>…</think><answer>…</answer>`` and 0 otherwise. Accuracy is the answer checker's 0 or 1, or,
with a judge, ``(1 - share) x rules + share x judge``. A verdict that cannot be read is counted, and that answer's accuracy
is the rules' alone. Called by the GRPO stage.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eztinker.rl.candidates import Example
from eztinker.rl.scorers import FAILED_VERDICT, Grade

PARTS = ("format_reward", "accuracy_reward", "rule_reward", "judge_reward")
"""Of a grade, beside ``score``."""
Marks = Callable[[Sequence[tuple[Example, str]]], list[float | None]]


@dataclass(frozen=True, slots=True)
class RewardWeights:
    """What counts how much.

    Attributes:
        format: of the form.
        accuracy: of the answer.
        judge_share: the judge's share of the accuracy, 0 to 1; the rest is the rules'.
    """

    format: float = 0.3
    accuracy: float = 0.7
    judge_share: float = 0.0

    def reward(self, is_formed: bool, is_right: bool, judged: float | None) -> dict[str, Any]:
        """The reward with its parts.

        Args:
            is_formed: the form is complete and in order.
            is_right: by the rules.
            judged: the judge's mark, 0 to 1; None without a judge or when the verdict could not be read.
        """
        by_form, by_rules = float(is_formed), float(is_right)
        accuracy = by_rules
        if judged is not None:
            accuracy = (1 - self.judge_share) * by_rules + self.judge_share * judged
        return {
            "score": self.format * by_form + self.accuracy * accuracy,
            "format_reward": by_form,
            "accuracy_reward": accuracy,
            "rule_reward": by_rules,
            "judge_reward": judged,
        }


@dataclass
class FinanceScorer:
    """Scores answers by form and accuracy.

    Attributes:
        weights: of the parts.
        is_formed: whether a text has the form.
        is_right: whether a text's answer equals the gold answer of an example.
        judge: a mark from 0 to 1 for each answer, None where the verdict could not be read; None: no judge.
        whole: the text of an answer together with what its prompt opened already.
    """

    weights: RewardWeights
    is_formed: Callable[[str], bool]
    is_right: Callable[[Example, str], bool]
    judge: Marks | None = None
    whole: Callable[[Example, str], str] = lambda _, text: text

    def score(self, answers: Sequence[tuple[Example, str]]) -> list[Grade]:
        """Grades with ``format_reward``, ``accuracy_reward``, ``rule_reward`` and ``judge_reward``."""
        texts = [(example, self.whole(example, text)) for example, text in answers]
        marks = self.judge(texts) if self.judge else [None] * len(texts)
        return [
            self._grade(example, text, mark)
            for (example, text), mark in zip(texts, marks, strict=True)
        ]

    def _grade(self, example: Example, text: str, mark: float | None) -> Grade:
        is_failed = self.judge is not None and mark is None
        parts = self.weights.reward(self.is_formed(text), self.is_right(example, text), mark)
        return {
            **parts,
            "is_correct": bool(parts["rule_reward"]),
            "confidence": 1.0,
            "strategy": FAILED_VERDICT
            if is_failed
            else "rules_and_judge"
            if self.judge
            else "rules",
        }

    def figures_of(self, grades: Sequence[Grade]) -> dict[str, Any]:
        """Mean of every part, and ``num_failed_verdicts`` where there is a judge."""
        parts = {name: [one[name] for one in grades if one[name] is not None] for name in PARTS}
        figures: dict[str, Any] = {
            name: statistics.fmean(values) for name, values in parts.items() if values
        }
        if self.judge is not None:
            figures["num_failed_verdicts"] = sum(
                one["strategy"] == FAILED_VERDICT for one in grades
            )
        return figures
