"""Generated problems: the work is right, the splits are apart, the seed decides."""

import random
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eztinker.dataset.generated import (
    GeneratedFinanceDataset,
    GeneratedLegalDataset,
    GeneratedMathDataset,
    accounts,
    arithmetic,
    finance,
    legal,
)
from eztinker.dataset.generated.problem import Problem, evaluate, split_of
from eztinker.errors import InvalidRequestError

SETS = (GeneratedMathDataset, GeneratedFinanceDataset, GeneratedLegalDataset)
EQUATION = re.compile(r"(\d[\d +*/-]*) = (\d+)")
ALL_TEMPLATES = arithmetic.TEMPLATES + finance.TEMPLATES + accounts.TEMPLATES
seeds = st.integers(min_value=0, max_value=2**32)


def _draw(template, seed) -> Problem:
    rng = random.Random(seed)
    return template.draw(rng, arithmetic.draw_words(rng, template.language))


@settings(max_examples=200)
@given(template=st.sampled_from(ALL_TEMPLATES), seed=seeds)
def test_every_equation_holds_and_the_last_result_is_the_answer(template, seed):
    problem = _draw(template, seed)
    equations = EQUATION.findall(problem.solution)
    assert len(equations) == len(template.steps)
    for left, right in equations:
        assert evaluate(left, {}) == Fraction(int(right))
    assert equations[-1][1] == problem.answer


@settings(max_examples=200)
@given(template=st.sampled_from(ALL_TEMPLATES), seed=seeds)
def test_every_number_that_decides_the_problem_is_in_the_question(template, seed):
    problem = _draw(template, seed)
    in_question = re.findall(r"\d+", problem.question)
    assert sorted(in_question) == sorted(str(value) for value in problem.values)
    assert "{" not in problem.question + problem.solution


@settings(max_examples=200)
@given(template=st.sampled_from(ALL_TEMPLATES), seed=seeds)
def test_hurried_answers_are_wrong(template, seed):
    problem = _draw(template, seed)
    assert problem.answer not in problem.near_misses
    assert all(int(miss) > 0 for miss in problem.near_misses)


@settings(max_examples=100)
@given(kind=st.text(max_size=8), values=st.lists(st.integers(), max_size=4))
def test_each_identity_has_one_side(kind, values):
    assert split_of(kind, values) == split_of(kind, tuple(values))


def test_about_one_in_eight_identities_is_held_out():
    sides = [split_of("kind", (number,)) for number in range(4000)]
    assert 0.10 < sides.count("test") / len(sides) < 0.15


@pytest.mark.parametrize("dataset", SETS)
def test_splits_share_no_question_and_no_numbers(dataset):
    train = dataset("train", 1500, seed=3).problems
    test = dataset("test", 300, seed=3).problems
    assert not {p.question for p in train} & {p.question for p in test}
    assert not {(p.kind, p.values) for p in train} & {(p.kind, p.values) for p in test}


@pytest.mark.parametrize("dataset", SETS)
def test_the_seed_decides_the_rows(dataset):
    assert list(dataset("test", 40, seed=1)) == list(dataset("test", 40, seed=1))
    assert list(dataset("test", 40, seed=1)) != list(dataset("test", 40, seed=2))
    assert list(dataset("test", 40))[:10] == list(dataset("test", 10))


@pytest.mark.parametrize("dataset", SETS)
def test_rows_are_distinct_and_the_question_is_in_the_prompt(dataset):
    rows = dataset("train", 300)
    assert len({row["question"] for row in rows}) == len(rows) == 300
    for index in range(20):
        question, prompt, truth = rows.get_example_question(index)
        assert question in prompt
        assert truth == rows[index]["ground_truth"]


def test_maths_prompt_and_answer_have_the_form_of_gsm8k():
    rows = GeneratedMathDataset("test", 50)
    for index, row in enumerate(rows):
        question, prompt, truth = rows.get_example_question(index)
        assert prompt == f"Question: {question}\nAnswer:"
        assert row["answer"].endswith(f"\n#### {truth}")
        assert row["answer"].startswith(" ")


def test_finance_answers_have_think_and_answer_tags():
    for row in GeneratedFinanceDataset("test", 50):
        form = r"<think>.+</think><answer>\d+</answer>"
        assert re.fullmatch(form, row["answer"], re.DOTALL)
        assert row["answer"].endswith(f"<answer>{row['ground_truth']}</answer>")


def _judge(fact: str, charge: legal.Charge) -> str:
    """The toy law read from the text alone."""
    amount = int(re.findall(rf"(\d+){charge.unit}", fact)[0])
    if amount < charge.threshold:
        return "不违规"
    months = charge.base_months + (24 if amount >= 10 * charge.threshold else 0)
    months += 6 * ("累犯" in fact) - 3 * ("自首" in fact) - 2 * ("退赔" in fact)
    return f"{charge.name} | {months}"


@settings(max_examples=300)
@given(seed=seeds)
def test_judgments_follow_from_the_text(seed):
    problem = legal.draw_legal(random.Random(seed), "train")
    (charge,) = [c for c in legal.CHARGES if problem.kind == f"legal_{c.name}"]
    assert problem.answer == _judge(problem.question, charge)


def test_both_verdicts_and_all_charges_occur():
    answers = [row["ground_truth"] for row in GeneratedLegalDataset("train", 400)]
    assert 0.15 < answers.count("不违规") / 400 < 0.5
    assert {a.split(" | ")[0] for a in answers} == {c.name for c in legal.CHARGES} | {"不违规"}


@pytest.mark.parametrize("dataset", SETS)
def test_a_worked_answer_is_correct_and_a_wrong_one_is_not(dataset):
    rows = dataset("test", 20)
    for index, row in enumerate(rows):
        question, _, truth = rows.get_example_question(index)
        right = rows.evaluate_answer(row["answer"], truth, question)
        assert right["is_correct"], (row["answer"], right)
        assert {"score", "confidence", "strategy", "pred_answer", "ground_truth"} <= set(right)
        wrong = rows.evaluate_answer("#### 987654", truth, question)
        assert not wrong["is_correct"]


@pytest.mark.parametrize("dataset", SETS)
@pytest.mark.parametrize("arguments", [{"split": "dev"}, {"max_samples": 0}])
def test_wrong_arguments_are_refused_by_name(dataset, arguments):
    with pytest.raises(InvalidRequestError) as caught:
        dataset(**arguments)
    assert caught.value.field in arguments
