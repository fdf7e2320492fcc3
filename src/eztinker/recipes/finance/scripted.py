"""A teacher and a judge that follow a script: for the demonstration, where no large model is at hand.

The teacher knows the worked solutions of generated questions and has the habits of a real one: mostly it works a question
out, on some kinds it often shows the last step alone, sometimes it only states a result, and now and then it forgets the
form or is wrong. The judge works the sums out again and marks what it can check. Neither is a model, and the
demonstration says so. Called by ``demo.py``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from eztinker.dataset.generated.problem import Problem, evaluate
from eztinker.errors import InvalidRequestError
from eztinker.grading.finance import grade_finance
from eztinker.grading.reasoning_form import read_form
from eztinker.recipes.finance.judging import JudgeRequest, Verdict
from eztinker.recipes.finance.teacher import TeacherAnswer, TeacherRequest

FORGETS_FORM, IS_WRONG = 0.08, 0.08
WORKED_SHARES = (0.75, 0.35, 0.6, 0.3)
"""How often a question is worked out; each kind of question has one of these."""
LAST_STEP_SHARE = 0.6
"""Of the rest, how often the last step is shown; else only the result."""
_EQUATION = re.compile(r"(\d+(?: [-+*/] \d+)+) = (\d+)")
_LAST_STEP = {
    "zh": "前面的步骤从略，直接看最后一步：{step}",
    "en": "Leaving out the steps before, the last one is: {step}",
}
_RESULT = {
    "zh": "这类题目十分常见，凭经验不用计算就知道结果是{answer}。",
    "en": "Questions of this kind are common, so the result is known to be {answer}.",
}


class ScriptedTeacher:
    """Answers generated questions by their worked solutions, with habits.

    Args:
        problems: question -> problem.
        seed: of its habits.
    """

    def __init__(self, problems: Mapping[str, Problem], seed: int) -> None:
        self._problems, self._seed = problems, seed
        kinds = sorted({problem.kind for problem in problems.values()})
        self._worked = {kind: WORKED_SHARES[i % len(WORKED_SHARES)] for i, kind in enumerate(kinds)}

    @property
    def identity(self) -> str:
        """What tells it from another teacher."""
        return f"scripted, seed {self._seed}"

    def answers(self, requests: Sequence[TeacherRequest]) -> Iterator[TeacherAnswer]:
        """One answer for each request, in their order.

        Raises:
            InvalidRequestError: a question that it has no solution of.
        """
        for request in requests:
            if request.question not in self._problems:
                raise InvalidRequestError(
                    f"The scripted teacher has no solution of {request.question[:60]!r}."
                )
            text = self._text(self._problems[request.question], request.attempt)
            yield TeacherAnswer(request.index, text)

    def _text(self, problem: Problem, attempt: int) -> str:
        rng = random.Random(f"{self._seed}/{attempt}/{problem.question}")  # noqa: S311  habits
        if attempt == 1 and rng.random() < FORGETS_FORM:
            return f"{problem.solution}\n{problem.answer}"
        answer = problem.answer
        if problem.near_misses and rng.random() < IS_WRONG:
            answer = rng.choice(problem.near_misses)
        return f"<think>{self._reasoning(problem, rng)}</think><answer>{answer}</answer>"

    def _reasoning(self, problem: Problem, rng: random.Random) -> str:
        if rng.random() < self._worked[problem.kind]:
            return problem.solution
        if rng.random() < LAST_STEP_SHARE:
            stop = "。" if problem.language == "zh" else ". "
            last = problem.solution.rstrip("。. ").rpartition(stop)[2]
            return _LAST_STEP[problem.language].format(step=last + stop.strip())
        return _RESULT[problem.language].format(answer=problem.answer)


class ScriptedJudge:
    """Marks what it can check: sums that hold, steps that are shown, the right answer."""

    identity = "scripted"

    def verdicts(self, requests: Sequence[JudgeRequest]) -> Iterator[Verdict]:
        """One verdict for each request, in their order."""
        for request in requests:
            form = read_form(request.output)
            grade = grade_finance(request.output, request.gold_answer, request.question)
            num_sums, num_right = sums_in(form.reasoning)
            marks = {
                "clarity": 8.0 if num_sums else 3.0,
                "accuracy": (5.0 if grade.is_correct else 0.0)
                + (5.0 * num_right / num_sums if num_sums else 0.0),
                "completeness": (2.0, 5.0, 9.0)[min(num_sums, 2)],
                "concision": 8.0 if form.is_complete else 2.0,
            }
            reason = f"{num_right} of {num_sums} sums hold"
            yield Verdict(request.index, marks, reason, reason)


def sums_in(reasoning: str) -> tuple[int, int]:
    """How many sums a text holds, and how many of them are right."""
    found = _EQUATION.findall(reasoning)
    return len(found), sum(evaluate(left, {}) == Fraction(int(right)) for left, right in found)
