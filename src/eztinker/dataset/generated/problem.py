"""One generated problem, the little language its templates are written in, and the split.

A template is data: phrasings with named places, ranges for the numbers, and steps such as
``"x = a * b"`` with a tail in words. From it and a random source comes a ``Problem``. Whether a
problem belongs to ``train`` or ``test`` is decided by a hash of its kind and its numbers, so the
same sum never stands on both sides under another name.

Deliberately unknown here: prompts, grading, tokenizers, careless answers. Called by ``arithmetic``,
``finance`` and ``legal``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from eztinker.errors import InvalidRequestError

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
TEST_SHARE = 8  # one identity in this many is held out
MAX_DRAWS = 10_000  # a template that needs more draws than this is badly written


@dataclass(frozen=True)
class Problem:
    """A question with its worked solution.

    Attributes:
        kind: name of the template.
        language: ``en`` or ``zh``.
        question: what is asked.
        solution: the worked steps, without the final answer line.
        answer: the final answer, as text.
        values: the numbers (and choices) that make the problem what it is.
        near_misses: results that a hurried reader would give instead of the answer.
    """

    kind: str
    language: Literal["en", "zh"]
    question: str
    solution: str
    answer: str
    values: tuple[int | str, ...]
    near_misses: tuple[str, ...] = ()

    @property
    def split(self) -> Split:
        """Side of the split this problem lies on, whatever its names and phrasing."""
        return split_of(self.kind, self.values)


def split_of(kind: str, values: Sequence[int | str]) -> Split:
    """Return the side that a problem identity belongs to; about one in eight is ``test``."""
    identity = "|".join([kind, *(str(value) for value in values)])
    digest = hashlib.sha256(identity.encode("utf-8")).digest()
    return "test" if digest[0] % TEST_SHARE == 0 else "train"


def check_split(split: str) -> Split:
    """Return ``split`` if it is one of ``SPLITS``.

    Raises:
        InvalidRequestError: for any other name.
    """
    for known in SPLITS:
        if split == known:
            return known
    raise InvalidRequestError(
        f"expected split to be one of {', '.join(SPLITS)}, got {split!r}; choose one of them",
        field="split",
    )


@dataclass(frozen=True)
class Step:
    """One line of work, ``name = expression`` followed by words.

    The expression holds names and numbers joined by ``+ - * /`` with single spaces and is worked
    from left to right.
    """

    formula: str
    tail: str = ""

    @property
    def name(self) -> str:
        """The name that later steps use for the result."""
        return self.formula.split(" = ")[0]

    @property
    def expression(self) -> str:
        """The right-hand side."""
        return self.formula.split(" = ")[1]


@dataclass(frozen=True)
class Template:
    """A kind of problem.

    Attributes:
        kind: its name, unique in the package.
        language: ``en`` or ``zh``.
        phrasings: texts of the question with places ``{a}`` for numbers and ``{n}`` for words.
        ranges: smallest and largest value and step of each number.
        steps: the work; the last result is the answer.
        largest: the largest result any step may have.
    """

    kind: str
    language: Literal["en", "zh"]
    phrasings: tuple[str, ...]
    ranges: Mapping[str, tuple[int, int] | tuple[int, int, int]]
    steps: tuple[Step, ...]
    largest: int = 200
    extra_words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def draw(self, rng: random.Random, words: Mapping[str, str]) -> Problem:
        """Draw numbers until every step has a whole, positive, small result."""
        numbers, results = self._draw_numbers(rng)
        chosen = {key: rng.choice(options) for key, options in self.extra_words.items()}
        places = {**words, **chosen, **{key: str(value) for key, value in numbers.items()}}
        known = {**numbers, **results}
        stop, gap = ("。", "") if self.language == "zh" else (".", " ")
        lines = [self._line(step, known, places) + stop for step in self.steps]
        answer = str(results[self.steps[-1].name])
        misses = {str(value) for value in known.values()} - {answer}
        return Problem(
            kind=self.kind,
            language=self.language,
            question=rng.choice(self.phrasings).format(**places),
            solution=gap.join(lines),
            answer=answer,
            values=tuple(numbers.values()),
            near_misses=tuple(sorted(misses)),
        )

    def _draw_numbers(self, rng: random.Random) -> tuple[dict[str, int], dict[str, int]]:
        for _ in range(MAX_DRAWS):
            numbers = {key: rng.randrange(r[0], r[1] + 1, *r[2:]) for key, r in self.ranges.items()}
            results = self._work(numbers)
            if results is not None:
                return numbers, results
        raise InvalidRequestError(f"template {self.kind!r} has ranges that its steps never allow")

    def _work(self, numbers: Mapping[str, int]) -> dict[str, int] | None:
        results: dict[str, int] = {}
        for step in self.steps:
            value = evaluate(step.expression, {**numbers, **results})
            if value.denominator != 1 or not 1 <= value <= self.largest:
                return None
            results[step.name] = int(value)
        return results

    def _line(self, step: Step, known: Mapping[str, int], places: Mapping[str, str]) -> str:
        terms = [str(known.get(term, term)) for term in step.expression.split(" ")]
        return f"{' '.join(terms)} = {known[step.name]}" + step.tail.format(**places)


def evaluate(expression: str, known: Mapping[str, int]) -> Fraction:
    """Work ``expression`` from left to right, exactly; names are looked up in ``known``."""
    first, *rest = expression.split(" ")
    value = _term(first, known)
    for operator, term in zip(rest[::2], rest[1::2], strict=True):
        value = _apply(value, operator, _term(term, known))
    return value


def _term(term: str, known: Mapping[str, int]) -> Fraction:
    return Fraction(known[term]) if term in known else Fraction(int(term))


def _apply(left: Fraction, operator: str, right: Fraction) -> Fraction:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if operator == "/":
        return left / right
    raise InvalidRequestError(f"expected one of + - * / in a step, got {operator!r}")
