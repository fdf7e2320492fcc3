"""Which option an output names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import InvalidRequestError
from eztinker.grading.options import grade_option

OPTIONS = {"A": "10 km", "B": "15", "C": "1/2", "D": "None of these", "E": "15.5"}


@pytest.mark.parametrize(
    "text",
    [
        "#### B",
        "so \\boxed{B}",
        "\\boxed{\\text{B}}",
        "The answer is (B).",
        "the correct option is B",
        "Answer: B) 15",
        "答案是B",
        "故选：B。",
        "<think>A or C? The answer is A.</think><answer>B</answer>",
        "First I thought the answer is A. But the answer is B.",
        "B",
        "(B)",
        "We get\nB) 15",
        "It is 15.\n#### 15",
    ],
)
def test_the_right_option_is_recognised(text: str):
    assert grade_option(text, "B", OPTIONS).is_correct


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#### A",
        "A better idea is B-side music",
        "I do not know",
        "<think>The answer is B",
        "12",
        "#### Big",
        "The answer is B or C",
        "故选：A或B",
        "不选B",
    ],
)
def test_anything_else_is_not(text: str):
    assert not grade_option(text, "B", OPTIONS).is_correct


def test_no_answer_is_said():
    grade = grade_option("I cannot tell.", "B", OPTIONS)
    assert (grade.strategy, grade.confidence, grade.pred_answer) == ("no_answer", 0.0, None)


def test_a_reference_that_is_no_option_is_an_error():
    with pytest.raises(InvalidRequestError):
        grade_option("#### A", "F", OPTIONS)


@given(st.text(max_size=300))
def test_any_text_has_a_grade_of_an_option_or_of_none(text: str):
    grade = grade_option(text, "B", OPTIONS)
    assert grade.pred_answer in (None, *OPTIONS)
    assert grade.is_correct == (grade.pred_answer == "B") == (grade.score == 1.0)
    assert (grade.confidence == 0.0) == (grade.pred_answer is None)
