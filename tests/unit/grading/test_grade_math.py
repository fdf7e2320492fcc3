"""The answer checker on what models really write, honest and hostile."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eztinker.errors import InvalidRequestError
from eztinker.grading.math import grade_math, read_truth

QUESTION = "Janet has 16 eggs. She eats 3 and bakes with 4. She sells the rest for $2 each. How much does she make?"

# output, ground truth, strategy
RIGHT = [
    ("She sells 16 - 3 - 4 = 9 eggs.\n#### 18", "18", "hash_mark"),
    ("#### $18.00", "18", "hash_mark"),
    ("#### 18 dollars per day", "18", "hash_mark"),
    ("#### Step 1: count 5\nwork\n#### Final Answer: 18", "18", "hash_mark"),
    ("#### 1. Count the eggs\nThere are 18", "18", "last_number"),
    ("#### 1,234,567", "1234567", "hash_mark"),
    ("#### 18\n\nQuestion: Tom has 5 pens?\nAnswer: 7\n#### 7", "18", "hash_mark"),
    ("<think>maybe 5, the answer is 5</think>It is #### 18", "18", "hash_mark"),
    ("<think>5</think><answer>18</answer>", "18", "answer_tag"),
    ("<think>5</think>\n<answer>\\boxed{18}</answer>", "18", "answer_tag"),
    ("<answer>5</answer> no wait <answer>18</answer>", "18", "answer_tag"),
    ("<answer>She makes 18 dollars.</answer>", "18", "answer_tag"),
    ("<ANSWER>eighteen</ANSWER>", "18", "answer_tag"),
    ("<answer>净利润率为 25%</answer>", "25%", "answer_tag"),
    ("<answer>18", "18", "answer_tag"),
    ("<think>so <answer>18</answer>", "18", "answer_tag"),
    ("<think>write <answer>5</answer></think>#### 18", "18", "hash_mark"),
    ("first \\boxed{5}, then \\boxed{18}", "18", "boxed"),
    ("\\boxed{18 \\text{ dollars}}", "18", "boxed"),
    ("\\boxed{\\$18}", "18", "boxed"),
    ("\\boxed{\\dfrac{1}{2}}", "0.5", "boxed"),
    ("\\boxed{x = 18}", "18", "boxed"),
    ("\\boxed{1{,}000}", "1000", "boxed"),
    ("$\\boxed{\\text{eighteen}}$", "18", "boxed"),
    ("She has 21 ducks. The answer is 21", "21", "phrase"),
    ("The answer is twenty one.", "21", "phrase"),
    ("The answer is twenty-one ducks.", "21", "phrase"),
    ("The answer is 21.0", "21", "phrase"),
    ("**Answer:** 18", "18", "phrase"),
    ("Final answer: **18**", "18", "phrase"),
    ("The final answer is $18$.", "18", "phrase"),
    ("The final answer is \\(18\\).", "18", "phrase"),
    ("The answer is 9 * 2 = 18 dollars.", "18", "phrase"),
    ("The answer is: \n\n18", "18", "phrase"),
    ("The answer is approximately $1,234.50 per year", "1234.5", "phrase"),
    ("所以答案是二十一。", "21", "phrase"),
    ("答案：一百零五元", "105", "phrase"),
    ("答案是两千", "2000", "phrase"),
    ("答案为 3.5万元", "35000", "phrase"),
    ("答：她一共有21只鸭子。\n答案是21只", "21", "phrase"),
    ("The answer is −5", "-5", "phrase"),
    ("The answer is 3 1/2 hours", "7/2", "phrase"),
    ("The answer is 2 dozen", "24", "phrase"),
    ("The answer is 1.5 million", "1500000", "phrase"),
    ("The answer is 1.2 × 10^3", "1200", "phrase"),
    ("The answer is 1.2 x 10^3", "1200", "phrase"),
    ("The answer is 18 eggs in 2 days", "18", "phrase"),
    ("The answer is 18 dollars from Monday to Friday", "18", "phrase"),
    ("答案是二十三万", "230000", "phrase"),
    ("twenty one", "21", "whole_text"),
    ("21.0", "21", "whole_text"),
    ("二十一", "21", "whole_text"),
    ("１８", "18", "whole_text"),
    ("So she makes 9 * 2 = 18 dollars", "18", "last_number"),
    ("First 3.\n2. Then she has 18 eggs.", "18", "last_number"),
    ("It takes 48/2 = 24 clips, in all 72.", "72", "last_number"),
    (f"Question: {QUESTION}\nAnswer: She makes 18 dollars.", "18", "last_number"),
    ("Question: Tom has 5 apples?\nAnswer: 18", "18", "whole_text"),
]

# output, ground truth
WRONG = [
    ("", "18"),
    ("   \n", "18"),
    ("I do not know.", "18"),
    ("There is one thing to say about it.", "1"),  # a number word in prose
    ("So she has twenty one ducks.", "21"),
    ("她有一个问题。", "1"),
    ("The answer is one of the following.", "1"),
    ("The answer is not 18.", "18"),
    ("The answer is 5 or 18", "18"),
    ("The answer is 18 or 5", "18"),
    ("The answer is 18, 19, 20", "18"),
    ("The answer is either eighteen or nineteen", "18"),
    ("The answer is between 17 and 18", "18"),
    ("The answer is somewhere from 17 to 18", "18"),
    ("答案是介于17和18之间", "18"),
    ("#### 18 ± 1", "18"),
    ("#### 18.5.2", "18.5"),
    ("#### 18 hours 30 minutes", "18"),
    ("#### 18 feet and 3 inches", "18"),
    ("答案是18小时30分钟", "18"),
    ("答案是18元5角", "18"),
    ("答案是二三十", "230"),  # twenty or thirty
    ("\\boxed{18, 19}", "18"),
    ("\\boxed{5x}", "5"),
    ("\\boxed{18", "18"),  # cut off: more digits may have followed
    ("<think>The answer is 18", "18"),  # reasoning never ended
    ("<think>The answer is 18</think>", "18"),
    ("<think>The answer is 18</think>It is hard to say.", "18"),
    ("<answer></answer> 18", "18"),
    ("<answer>5</answer> 18", "18"),
    ("#### 17\nI mean 18", "18"),
    ("18 eggs, but she makes 17", "18"),
    ("1/2", "12"),
    ("12", "1/2"),
    ("1.8", "18"),
    ("50%", "0.5"),
    ("18th", "1"),
    ("-18", "18"),
    ("nan", "18"),
    ("inf", "18"),
    ("1e9999999", "18"),
    ("10^9999999", "18"),
    ("\\frac{1}{0}", "0"),
    ("step 18", "17"),
    ("It is 12 +", "12"),
]


@pytest.mark.parametrize(("text", "truth", "strategy"), RIGHT)
def test_right_answers(text: str, truth: str, strategy: str) -> None:
    grade = grade_math(text, truth, QUESTION, use_math_verify=False)
    assert grade.is_correct, grade
    assert grade.score == 1.0
    assert grade.strategy == strategy
    assert grade.math_verify == "not_needed"


@pytest.mark.parametrize(("text", "truth"), WRONG)
def test_wrong_answers(text: str, truth: str) -> None:
    grade = grade_math(text, truth, QUESTION, use_math_verify=False)
    assert not grade.is_correct, grade
    assert grade.score == 0.0


def test_result_has_the_documented_keys() -> None:
    result = grade_math("The answer is 21", "twenty one").as_dict()
    assert result == {
        "score": 1.0,
        "is_correct": True,
        "confidence": 0.9,
        "strategy": "phrase",
        "pred_answer": "21",
        "ground_truth": "twenty one",
        "math_verify": "not_needed",
    }


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        f"Question: {QUESTION}\nAnswer:",
        f"{QUESTION} {QUESTION}",
        f"Let me repeat: {QUESTION} I do not know.",
        "Well. She sells the rest for $2 each. How much does she make?",
    ],
)
def test_an_echoed_question_is_no_answer(text: str) -> None:
    for truth in ("16", "3", "4", "2"):
        grade = grade_math(text, truth, QUESTION, use_math_verify=False)
        assert (grade.strategy, grade.pred_answer) == ("no_answer", None)


def test_a_prompt_without_known_question_is_no_answer() -> None:
    assert grade_math("Question: Tom has 5 apples.\nAnswer:", "5").pred_answer is None


def test_the_last_number_in_prose_is_less_sure_than_a_marked_answer() -> None:
    prose = grade_math("so she makes 17 dollars", "18")
    marked = grade_math("#### 17", "18")
    assert prose.confidence < grade_math("The answer is 17", "18").confidence < marked.confidence
    assert not prose.is_correct
    assert not marked.is_correct


def test_percent_is_a_unit_unless_both_readings_are_wanted() -> None:
    assert grade_math("The answer is 50%", "50").is_correct
    assert grade_math("The answer is 百分之五十", "50").is_correct
    assert not grade_math("The answer is 50%", "0.5").is_correct
    assert grade_math("The answer is 50%", "0.5", percent="either").is_correct
    assert grade_math("The answer is 0.5", "50%", percent="either").is_correct
    assert not grade_math("The answer is 0.5", "50", percent="either").is_correct


@pytest.mark.parametrize("truth", ["", "  ", "####", "banana", "no idea", "x" * 1000, None])
def test_an_unreadable_truth_equals_nothing(truth: str) -> None:
    for text in ("", "banana", "no idea", "18", truth or ""):
        grade = grade_math(text, truth)
        assert not grade.is_correct
        assert grade.strategy == "unparsable_ground_truth"


def test_truth_may_be_a_whole_solution() -> None:
    truth = read_truth("She makes 9 * 2 = $<<9*2=18>>18.\n#### 1,018")
    assert truth is not None
    assert str(truth.value) == "1018"
    assert grade_math("1018", "so \\n\n#### 1,018").is_correct
    assert grade_math("7", "\\boxed{7}").is_correct


def test_symbolic_truth_is_compared_word_for_word_without_math_verify() -> None:
    assert grade_math("\\boxed{2\\sqrt{3}}", "2 \\sqrt{3}", use_math_verify=False).is_correct
    grade = grade_math("\\boxed{\\sqrt{12}}", "2\\sqrt{3}", use_math_verify=False)
    assert (grade.is_correct, grade.math_verify) == (False, "off")


@pytest.mark.parametrize("value", [{"percent": "both"}, {"timeout_s": 0}, {"timeout_s": -1}])
def test_options_out_of_range_are_refused_by_name(value: dict) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        grade_math("18", "18", **value)
    assert caught.value.field == next(iter(value))


HOSTILE = [
    "\x00" * 5000,
    "\ud800 the answer is \udfff 18",
    "{" * 100_000,
    "\\boxed{" * 20_000,
    "\\boxed{" + "{" * 50_000 + "}" * 50_000 + "}",
    "9" * 1_000_000,
    "the answer is " + "9" * 100_000,
    "the answer is " * 50_000,
    "#### " * 100_000,
    "####\n" * 100_000,
    "<think>" * 50_000,
    "</think>" * 50_000,
    "<answer>" * 50_000,
    "1," * 200_000,
    "1,000," * 100_000,
    "1 " * 200_000,
    " " * 500_000 + "1",
    "1/" * 200_000,
    "-" * 500_000,
    "\\frac{1}{" * 50_000,
    "\\text{" * 50_000,
    "twenty " * 100_000,
    "一百" * 100_000,
    "万亿" * 100_000,
    "分之" * 100_000,
    "1e" * 100_000,
    "1e9999999",
    "答案是" * 100_000,
    "\nQuestion:" * 50_000,
    "Question: " * 50_000,
    "=" * 300_000,
    "answer" + " " * 300_000,
    "answer is" + "*" * 300_000,
    "$" * 300_000,
    "a" * 500_000,
    "a " * 300_000,
    "\\" * 300_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda t: repr(t[:12]))
def test_hostile_text_is_read_in_bounded_time(text: str) -> None:
    started = time.perf_counter()
    grade_math(text, "18", QUESTION, use_math_verify=False)
    grade_math(text, "18", text, use_math_verify=False)
    grade_math("18", text, use_math_verify=False)
    assert time.perf_counter() - started < 1.0


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="0123456789.,/-+*^eE%$\\{}#<>= \n答案是二十百万的分之点半abnoswer"),
    ),
    st.text(max_size=40),
    st.text(max_size=40),
)
@settings(max_examples=400)
def test_never_raises(text: str, truth: str, question: str) -> None:
    grade = grade_math(text, truth, question, use_math_verify=False)
    assert grade.is_correct == (grade.score == 1.0)
    assert 0.0 <= grade.confidence <= 1.0


@given(st.binary(max_size=60))
def test_never_raises_on_surrogates(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for grade in (
        grade_math(text, "18", text, use_math_verify=False),
        grade_math("18", text, use_math_verify=False),
    ):
        assert grade.is_correct == (grade.score == 1.0)


@pytest.mark.parametrize("text", [None, 18, b"18", ["18"]])
def test_anything_but_text_is_no_answer(text: object) -> None:
    assert grade_math(text, "18").strategy == "no_answer"  # type: ignore[arg-type]


@given(st.integers(-(10**15), 10**15))
def test_integers_are_read_in_every_dress(number: int) -> None:
    for text in (
        f"#### {number:,}",
        f"\\boxed{{{number}.0}}",
        f"The answer is {number}.",
        f"<answer>{number} 个</answer>",
    ):
        assert grade_math(text, str(number), use_math_verify=False).is_correct
        assert not grade_math(text, str(number + 1), use_math_verify=False).is_correct
