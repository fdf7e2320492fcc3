"""The one checker of multiple-choice answers: which option does a model output name?

A letter where the output announces its answer counts first (``#### B``, ``\\boxed{B}``, ``<answer>B</answer>``,
"the answer is (B)", 答案是B), then a letter that stands alone; an answer that names no letter is compared with the
options' texts. It never raises on model output. Data sets call it; it knows none of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from eztinker.errors import InvalidRequestError
from eztinker.grading.answers import extract_answer
from eztinker.grading.grade import Grade
from eztinker.grading.numbers import parse_value

MAX_TEXT_CHARS = 20_000
_LETTER = r"\(?\[?([A-H])\)?\]?(?![A-Za-z0-9'])"
_ANNOUNCED: tuple[tuple[str, float, re.Pattern[str]], ...] = (
    ("answer_tag", 1.0, re.compile(rf"<answer>\s*{_LETTER}", re.I)),
    ("hash_mark", 1.0, re.compile(rf"####\s*{_LETTER}")),
    ("boxed", 1.0, re.compile(rf"\\boxed\s*\{{\s*(?:\\text\s*\{{\s*)?{_LETTER}")),
    (
        "phrase",
        0.9,
        re.compile(
            rf"(?:answer|option|choice)\s*(?:is|are|=|:|：|\s)+\s*[*$]*(?:option\s*)?{_LETTER}",
            re.I,
        ),
    ),
    (
        "phrase",
        0.9,
        re.compile(
            rf"(?<!不)(?:答案|选项|应选|选择|故选|选)(?:应该|应当|就|便)?[是为:：]?\s*[*]*{_LETTER}"
        ),
    ),
)
_HEDGE = re.compile(
    r"\s*[*$]*\s*(?:or|或者?|/)\s*[*$]*(?:option\s*)?[(（\[]?[A-H](?![A-Za-z0-9'])", re.I
)
_ALONE = re.compile(rf"(?:^|\n)\s*[*]*{_LETTER}[*.]*\s*(?=$|\n|[).:])")


def grade_option(generated_text: str, correct: str, options: Mapping[str, str]) -> Grade:
    """Whether an output names the right option.

    Args:
        generated_text: model output; anything but a string counts as no answer.
        correct: the right letter.
        options: letter -> text of the option.

    Raises:
        InvalidRequestError: ``correct`` is not among the options.
    """
    if correct not in options:
        raise InvalidRequestError(
            f"The right answer must be one of {', '.join(options)}, got {correct!r}.",
            field="correct",
        )
    text = generated_text[-MAX_TEXT_CHARS:] if isinstance(generated_text, str) else ""
    strategy, confidence, letter = _letter_of(_spoken(text), options)
    is_right = letter == correct
    return Grade(float(is_right), is_right, confidence, strategy, letter, correct)


def _spoken(text: str) -> str:
    """The text after the reasoning; nothing when the reasoning was cut off."""
    _, ended, after = text.rpartition("</think>")
    if ended:
        return after
    return "" if "<think>" in text else text


def _letter_of(text: str, options: Mapping[str, str]) -> tuple[str, float, str | None]:
    for strategy, confidence, pattern in _ANNOUNCED:
        matches = list(pattern.finditer(text))
        if matches and _HEDGE.match(text, matches[-1].end()):
            return "no_answer", 0.0, None  # A or B
        found = [m[1].upper() for m in matches]
        named = [letter for letter in found if letter in options]
        if named:
            return strategy, confidence, named[-1]
    alone = [m[1] for m in _ALONE.finditer(text) if m[1] in options]
    if alone:
        return "letter", 0.6, alone[-1]
    return _by_text(text, options)


def _by_text(text: str, options: Mapping[str, str]) -> tuple[str, float, str | None]:
    """The one option whose text is the answer; none when it fits several."""
    answer = extract_answer(text)
    if answer is None:
        return "no_answer", 0.0, None
    fitting = [letter for letter, option in options.items() if _same(answer.text, option)]
    if len(fitting) != 1:
        return "no_answer", 0.0, None
    return "option_text", 0.5, fitting[0]


def _same(answer: str, option: str) -> bool:
    left, right = parse_value(answer), parse_value(option)
    if left is not None and right is not None:
        return left.number == right.number
    return answer.strip().lower() == option.strip().lower()
