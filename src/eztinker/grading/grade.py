"""A grade: what every grader of this package says about one answer.

Plain data without rules; the graders (``math.py``, ``overlap.py``, …) make it, data sets hand it out as a
dictionary, recipes select by it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Grade:
    """Verdict on one generated text.

    Attributes:
        score: 0.0 (wrong) to 1.0 (right).
        is_correct: whether the answer counts as right.
        confidence: 0.0 to 1.0: how surely the text was read as its author meant it. A number announced as the
            answer is surer than the last number in prose; 0.0 when no answer was found.
        strategy: which rule found the answer, or why there is none (``no_answer``, ``unparsable_ground_truth``).
        pred_answer: the answer that was found, in its shortest exact form; None when there is none.
        ground_truth: what it was compared with, as given.
        math_verify: part of the math-verify library in the verdict: ``not_needed`` (the own rules decided),
            ``used``, ``timeout`` or ``unavailable`` (the own rules decided alone), ``off`` (switched off by the
            caller where it would have been asked).
    """

    score: float
    is_correct: bool
    confidence: float
    strategy: str
    pred_answer: str | None
    ground_truth: str
    math_verify: str = "not_needed"

    def as_dict(self) -> dict[str, Any]:
        """The same as a dictionary, as ``Dataset.evaluate_answer`` returns it."""
        return asdict(self)
