"""The form of reasoned answers, and the checks of reasoning that need no model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.grading.amounts import AskedUnit
from eztinker.grading.reasoning import reasoning_fault
from eztinker.grading.reasoning_form import TAGS, read_form

GOOD = "<think>\n设2022年营收为X\n</think>\n\n<answer>\n800\n</answer>\n"


def test_a_complete_form_has_its_parts() -> None:
    form = read_form(GOOD)
    assert (form.reason, form.reasoning, form.answer) == ("complete", "设2022年营收为X", "800")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "missing_tag"),
        ("<think>a</think>800", "missing_tag"),
        ("<think>a</think><answer>800", "missing_tag"),
        (GOOD + GOOD, "repeated_tag"),
        ("<answer>800</answer><think>a</think>", "wrong_order"),
        ("<think>a<answer>800</think></answer>", "wrong_order"),
        ("Sure! " + GOOD, "text_outside"),
        (GOOD + "done", "text_outside"),
        ("<think>a</think> so <answer>800</answer>", "text_outside"),
        ("<think> \n</think><answer>800</answer>", "empty_reasoning"),
        ("<think>a</think><answer> </answer>", "empty_answer"),
    ],
)
def test_faults_of_form(text: str, reason: str) -> None:
    form = read_form(text)
    assert form.reason == reason
    assert not form.is_complete


@given(st.lists(st.sampled_from([*TAGS, "x", " ", "\n"]), max_size=10).map("".join))
def test_only_one_order_of_tags_is_complete(text: str) -> None:
    squeezed = text.replace(" ", "").replace("\n", "")
    is_in_order = squeezed.replace("x", "") == "".join(TAGS)
    inside = squeezed.partition("</think>")
    is_filled = inside[0].endswith("x") and inside[2].removesuffix("</answer>").endswith("x")
    is_clean = squeezed.startswith("<think>") and squeezed.endswith("</answer>")
    gap = squeezed.partition("</think>")[2].startswith("<answer>")
    assert read_form(text).is_complete == (is_in_order and is_filled and is_clean and gap)


def fault(reasoning: str, answer: str = "800", asked: AskedUnit | None = None) -> str | None:
    return reasoning_fault(reasoning, answer, min_chars=10, max_chars=200, asked=asked)


def test_faults_of_reasoning() -> None:
    assert fault("1000 / 1.25 = 800，所以是800") is None
    assert fault("800") == "reasoning_too_short"
    assert fault("因此" * 200) == "reasoning_too_long"
    assert fault("我们再仔细想一想这个问题。" * 4 + "得到800") == "reasoning_repeats"
    assert fault("先看营收，再看增长率，答案就出来了") == "answer_not_in_reasoning"
    assert fault("先看营收，再看增长率，答案就出来了", "效力待定") is None
    assert fault("营收为 1000 / 1.25 = 800 万元，这就是结果", "8000000元") is None
    assert (
        fault("营收为 1000 / 1.25 = 801 万元，这就是结果", "8000000元") == "answer_not_in_reasoning"
    )
