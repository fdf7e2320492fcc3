"""The one checker of mathematical answers: is this model output right?

Own rules first (``answers.py``, ``numbers.py``): where both sides are numbers they decide alone. What they
cannot read, expressions and sets, goes to math-verify in worker processes that can be killed
(``math_verify_pool.py``). Model output never makes it raise, and the time is bounded. Data sets, recipes and
evaluation all call this; it knows none of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from eztinker.errors import InvalidRequestError
from eztinker.grading.answers import MAX_ANSWER_CHARS, Answer, extract_answer, is_expression
from eztinker.grading.grade import Grade
from eztinker.grading.math_verify_pool import default_pool
from eztinker.grading.numbers import Value, normalise, parse_value

PercentRule = Literal["strict", "either"]
DEFAULT_TIMEOUT_S = 3.0

_BLANKS = re.compile(r"\s++")
_BOXED = re.compile(r"\\boxed\s?\{(.*)\}", re.S)


@dataclass(frozen=True, slots=True)
class Truth:
    """A ground truth that can be compared with.

    Attributes:
        text: the answer alone (after ``####``, inside ``\\boxed{}``), stripped.
        value: the number it is; None for an expression.
    """

    text: str
    value: Value | None


def read_truth(ground_truth: str) -> Truth | None:
    """Read a ground truth; None when it is empty or neither number nor mathematical expression.

    Takes a bare answer, a GSM8K solution (after the last ``####``) or a ``\\boxed{}`` one.
    """
    text = str(ground_truth).rpartition("####")[2].strip()
    boxed = _BOXED.fullmatch(text)
    text = (boxed[1] if boxed else text).strip()
    if len(text) > MAX_ANSWER_CHARS:
        return None
    value = parse_value(text)
    if value is None and not is_expression(text):
        return None
    return Truth(text, value)


def grade_math(
    generated_text: str,
    ground_truth: str,
    question: str = "",
    *,
    use_math_verify: bool = True,
    percent: PercentRule = "strict",
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Grade:
    """Compare the final answer of a model output with the ground truth.

    Args:
        generated_text: model output, with or without the prompt in front; only its end (20,000 characters)
            is read. Anything but a string counts as no answer.
        ground_truth: a number, an expression, or a whole GSM8K solution.
        question: taken out of the output where it is echoed, so that its numbers are no answers.
        use_math_verify: ask math-verify where the own rules cannot decide.
        percent: ``strict``: the sign is a unit, ``50%`` equals 50. ``either``: it equals 0.5 too.
        timeout_s: bound of one math-verify call, > 0; starting its worker may take some seconds more, once.

    Returns:
        A grade. An empty or unreadable ground truth gives ``is_correct=False`` and the strategy
        ``unparsable_ground_truth``: two texts that nobody can read are never equal.

    Raises:
        InvalidRequestError: ``percent`` or ``timeout_s`` is out of range (never for model output).
    """
    _check_options(percent, timeout_s)
    truth = read_truth(ground_truth)
    if truth is None:
        return Grade(0.0, False, 0.0, "unparsable_ground_truth", None, str(ground_truth))
    answer = extract_answer(generated_text, question) if isinstance(generated_text, str) else None
    if answer is None:
        return Grade(0.0, False, 0.0, "no_answer", None, str(ground_truth))
    is_correct, status = _decide(answer, truth, use_math_verify, percent, timeout_s)
    return Grade(
        score=1.0 if is_correct else 0.0,
        is_correct=is_correct,
        confidence=answer.confidence,
        strategy=answer.strategy,
        pred_answer=str(answer.value) if answer.value else answer.text,
        ground_truth=str(ground_truth),
        math_verify=status,
    )


def _check_options(percent: str, timeout_s: float) -> None:
    if percent not in ("strict", "either"):
        raise InvalidRequestError(
            f"percent must be 'strict' or 'either', got {percent!r}.", field="percent"
        )
    if not 0 < timeout_s <= 600:
        raise InvalidRequestError(
            f"timeout_s must be above 0 and at most 600, got {timeout_s!r}.", field="timeout_s"
        )


def _decide(
    answer: Answer, truth: Truth, use_math_verify: bool, percent: str, timeout_s: float
) -> tuple[bool, str]:
    if answer.value and truth.value:
        return equal_values(answer.value, truth.value, percent), "not_needed"
    if _squeezed(answer.text) == _squeezed(truth.text):
        return True, "not_needed"
    if not is_expression(answer.text):
        return False, "not_needed"
    if not use_math_verify:
        return False, "off"
    verdict = default_pool().verify(answer.text, truth.text, timeout_s)
    return verdict.is_equal, verdict.status


def equal_values(a: Value, b: Value, percent: str = "strict") -> bool:
    """Exact equality of two numbers; with ``percent="either"`` 50% equals 0.5 as well as 50."""
    if a.number == b.number:
        return True
    if percent != "either" or a.is_percent == b.is_percent:
        return False
    return (a.number / 100 == b.number) if a.is_percent else (b.number / 100 == a.number)


def _squeezed(text: str) -> str:
    return _BLANKS.sub("", normalise(text)).strip("$")
