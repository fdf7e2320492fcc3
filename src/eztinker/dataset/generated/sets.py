"""Generated problems as data sets: maths, finance, legal, each with prompts and answer checking.

They need no files and no network, and they share the interface of the other data sets. Row ``i`` of
a set depends on the set's split, seed and ``i`` alone. How problems are made is in ``arithmetic``,
``finance`` and ``legal``; how answers are compared is in ``eztinker.grading``. Called by the demo
and the recipes.
"""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from eztinker.dataset.base import check_max_samples, register_dataset
from eztinker.dataset.generated import arithmetic, finance, legal
from eztinker.dataset.generated.problem import Problem, Split, check_split
from eztinker.errors import InvalidRequestError
from eztinker.grading.grade import Grade
from eztinker.grading.math import grade_math

JUDGMENT = re.compile(rf"[^|\n]{{1,40}}\|\s*(?:\d{{1,6}}|XT)|{legal.NOT_GUILTY}")
DEFAULT_SIZES = {"train": 1000, "test": 200}


class GeneratedDataset(ABC):
    """Base of the three sets: a list of distinct problems drawn from a seed.

    Args:
        split: ``train`` or ``test``; no problem of one occurs in the other.
        max_samples: number of rows, 1 to 20000; None means 1000 (train) or 200 (test).
        seed: other seeds give other rows.

    Raises:
        InvalidRequestError: for an unknown split or a number of rows out of range.
    """

    name = "generated"
    largest_size = 20_000

    def __init__(self, split: str = "train", max_samples: int | None = None, seed: int = 0) -> None:
        self.split: Split = check_split(split)
        self.seed = seed
        check_max_samples(max_samples)
        size = DEFAULT_SIZES[self.split] if max_samples is None else max_samples
        if size > self.largest_size:
            raise InvalidRequestError(
                f"expected max_samples of at most {self.largest_size}, got {max_samples}",
                field="max_samples",
            )
        self.problems = self._draw(size)

    def _draw(self, size: int) -> list[Problem]:
        rng = random.Random(f"{self.name}/{self.split}/{self.seed}")  # noqa: S311  not for secrets
        distinct: dict[str, Problem] = {}
        while len(distinct) < size:
            problem = self._draw_one(rng)
            distinct.setdefault(problem.question, problem)
        return list(distinct.values())

    @abstractmethod
    def _draw_one(self, rng: random.Random) -> Problem:
        """One problem of the set's kinds and split."""

    @abstractmethod
    def prompt(self, problem: Problem) -> str:
        """The text that a model is to continue."""

    @abstractmethod
    def worked_answer(self, problem: Problem) -> str:
        """A model answer, as it follows the prompt."""

    def __len__(self) -> int:
        return len(self.problems)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row ``index`` as ``question``, ``answer`` (worked), ``ground_truth``, ``kind``."""
        problem = self.problems[index]
        return {
            "question": problem.question,
            "answer": self.worked_answer(problem),
            "ground_truth": problem.answer,
            "kind": problem.kind,
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def grade(self, generated_text: str, ground_truth: str, question: str) -> Grade:
        """Compare the final number of a model output with the ground truth."""
        return grade_math(generated_text, ground_truth, question)

    def evaluate_answer(
        self, generated_text: str, ground_truth: str, question: str = ""
    ) -> dict[str, Any]:
        """Grade a model output.

        Args:
            generated_text: what the model wrote after the prompt (an echo of the prompt is allowed).
            ground_truth: the right answer.
            question: taken out of the output where it is echoed.

        Returns:
            ``score`` (0.0 or 1.0), ``is_correct``, ``confidence``, ``strategy``, ``pred_answer``,
            ``ground_truth`` and ``math_verify``. Never raises on model output.
        """
        return self.grade(generated_text, ground_truth, question).as_dict()

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        """Return question, prompt and ground truth of row ``index``."""
        problem = self.problems[index]
        return problem.question, self.prompt(problem), problem.answer


@register_dataset("generated-math")
class GeneratedMathDataset(GeneratedDataset):
    """English word problems of one to three steps; answers end in ``#### answer``."""

    name = "generated-math"

    def _draw_one(self, rng: random.Random) -> Problem:
        return arithmetic.draw_arithmetic(rng, self.split)

    def prompt(self, problem: Problem) -> str:
        """``Question: …`` and ``Answer:``, as for GSM8K."""
        return f"Question: {problem.question}\nAnswer:"

    def worked_answer(self, problem: Problem) -> str:
        """The steps, then ``#### answer``."""
        return f" {problem.solution}\n#### {problem.answer}"


@register_dataset("generated-finance")
class GeneratedFinanceDataset(GeneratedDataset):
    """Finance calculations, Chinese and English, in ``<think>…</think><answer>…</answer>`` form."""

    name = "generated-finance"

    def _draw_one(self, rng: random.Random) -> Problem:
        return finance.draw_finance(rng, self.split)

    def prompt(self, problem: Problem) -> str:
        """One user turn in ChatML, the assistant's turn opened."""
        return chat_prompt(problem.question)

    def worked_answer(self, problem: Problem) -> str:
        """Steps between think tags, the number between answer tags."""
        return f"<think>{problem.solution}</think><answer>{problem.answer}</answer>"


@register_dataset("generated-legal")
class GeneratedLegalDataset(GeneratedDataset):
    """Chinese fact patterns; the answer is ``{charge} | {months}`` or ``不违规``."""

    name = "generated-legal"

    def _draw_one(self, rng: random.Random) -> Problem:
        return legal.draw_legal(rng, self.split)

    def prompt(self, problem: Problem) -> str:
        """Facts and the form of the judgment in one user turn, the assistant's turn opened."""
        return chat_prompt(f"{problem.question}\n{legal.INSTRUCTION}")

    def worked_answer(self, problem: Problem) -> str:
        """The judgment itself."""
        return problem.answer

    def grade(self, generated_text: str, ground_truth: str, question: str) -> Grade:
        """Right is the first line that is equal to the ground truth, spaces aside."""
        del question  # facts hold no judgment, so an echo cannot be mistaken for one
        lines = [line.strip() for line in str(generated_text).splitlines() if line.strip()]
        judgments = [line for line in lines if JUDGMENT.fullmatch(line)]
        if not judgments:
            return Grade(0.0, False, 0.0, "no_answer", None, ground_truth, math_verify="off")
        is_correct = _squeezed(judgments[0]) == _squeezed(ground_truth)
        score = 1.0 if is_correct else 0.0
        return Grade(score, is_correct, 1.0, "judgment", judgments[0], ground_truth, "off")


def _squeezed(judgment: str) -> str:
    return re.sub(r"\s+", "", judgment)


def chat_prompt(user: str) -> str:
    """One user turn in ChatML with the assistant's turn opened."""
    return f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
