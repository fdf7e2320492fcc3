"""The checker of finance answers: amounts with units, options, statements, and what must never be equal."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eztinker.grading.amounts import AskedUnit, asked_unit, equal_amounts, read_amount, read_range
from eztinker.grading.finance import answer_region, grade_finance, read_options

REVENUE = "某公司2023年营收1000万元，同比增长25%，请计算2022年营收。"
GIFT = "该赠与的效力为（）。\nA. 可撤销\nB. 有效\nC. 无效\nD. 效力待定"
PATENT = "应摊销的金额为()万元。\nA. 96\nB. 48\nC. 46\nD. 50"
HEDGE = "可以对冲的策略是____。\nA. 做多股指期货\nB. 售出看跌期权\nC. 购买看跌期权\nD. A、B、C均可"
SIGNS = "净利润为____万元。\nA. -5\nB. 5\nC. 1.5\nD. 15"
IN_MILLION = "What was the average? (answer in million)"
IN_PERCENT = "What is the percentage change? (answer in percent)"
RATE = "营业收入的增长率是多少？"


def answered(text: str) -> str:
    return f"<think>先看 3 个条件。</think>\n<answer>{text}</answer>"


RIGHT = [
    ("Ａ", "A", GIFT),
    ("A is right", "A", GIFT),
    ("A because nothing else fits", "A", GIFT),
    ("A. because", "A", GIFT),
    ("需要5年", "5年", ""),
    ("60个月即5年", "5年", ""),
    ("5", "5年", ""),
    ("5美元", "5元", ""),
    ("800", "800", REVENUE),
    ("800万元", "800", REVENUE),
    ("800 万元。", "800", REVENUE),
    ("8000000元", "800", REVENUE),
    ("0.08亿元", "800万元", ""),
    ("八百万元", "800万", ""),
    ("800万", "8000000", ""),
    ("8,000,000", "800万", ""),
    ("800", "800万", REVENUE),
    ("2022年营收为800万元", "800", REVENUE),
    (r"\boxed{800}", "800", REVENUE),
    ("**800万元**", "800", REVENUE),
    ("1亿2000万元", "1.2亿", ""),
    ("12.5%", "0.125", ""),
    ("0.125", "12.5%", ""),
    ("百分之十二点五", "12.5%", ""),
    ("12.5个百分点", "12.5%", ""),
    ("12.5", "12.5%", "税率为（）%"),
    ("25%", "25", RATE),
    ("1,234.50", "1234.5", ""),
    ("1234.5元", "1,234.50", ""),
    ("-5", "负5", ""),
    ("−5%", "-5%", ""),
    ("3万至5万元", "3-5万", ""),
    ("10%～15%", "10%-15%", ""),
    ("19.4312", "19.43", IN_PERCENT),
    ("19.43%", "19.43", IN_PERCENT),
    ("$236 million", "236", IN_MILLION),
    ("236", "236", IN_MILLION),
    ("1.15", "1.1499999999999999", ""),
    ("D", "效力待定", GIFT),
    ("d", "效力待定", GIFT),
    ("D. 效力待定", "效力待定", GIFT),
    ("（D）", "效力待定", GIFT),
    ("选D", "效力待定", GIFT),
    ("正确答案是D。", "效力待定", GIFT),
    ("效力待定", "D", GIFT),
    ("该赠与效力待定", "效力待定", GIFT),
    ("A、B", "AB", GIFT),
    ("C", "46", PATENT),
    ("46万元", "46", PATENT),
    ("C. 46", "46", PATENT),
    ("A、B、C均可", "A、B、C均可", HEDGE),
    ("D", "A、B、C均可", HEDGE),
    ("-5", "-5", SIGNS),
    ("这种行为称为逆选择。", "逆选择", ""),
    ("资产负债表日", "资产负债表日;资产负债表日", ""),
    ("疏散同一性质的风险单位，减少一次事故的最大损失", "疏散同一性质的风险单位，以减少一次事故所导致的最大损失的方式。", ""),
    ("Diversification spreads capital across uncorrelated assets", "spreading of capital across uncorrelated assets", ""),
]  # fmt: skip

WRONG = [
    ("不是800万元", "800", REVENUE),
    ("It is not 800万元", "800", REVENUE),
    ("5个月", "5年", ""),
    ("5 months", "5 years", ""),
    ("3亿欧元", "3亿美元", ""),
    ("三天", "3年", ""),
    ("3-5个月", "3-5年", ""),
    ("不会上升", "上升", ""),
    ("无法上升", "上升", ""),
    ("未能上升", "上升", ""),
    ("不选A", "A", GIFT),
    ("答案是A或B", "A", GIFT),
    ("A or B", "A", GIFT),
    ("A / B", "A", GIFT),
    ("A bond is a debt security", "A", GIFT),
    ("800元", "800", REVENUE),
    ("8000000", "800", REVENUE),
    ("800", "800万", ""),
    ("800或900", "800", REVENUE),
    ("799", "800", REVENUE),
    ("800.4", "800", REVENUE),
    ("12.5", "12.5%", ""),
    ("0.125", "12.5%", "税率为（）%"),
    ("19.4", "19.43", IN_PERCENT),
    ("5", "-5", ""),
    ("3", "3-5", ""),
    ("3-6", "3-5", ""),
    ("3-5", "4", ""),
    ("236000000", "236", IN_MILLION),
    ("236元", "236", IN_MILLION),
    ("B. 效力待定", "效力待定", GIFT),
    ("C. 48", "46", PATENT),
    ("48", "46", PATENT),
    ("A", "A、B、C均可", HEDGE),
    ("A、B", "效力待定", GIFT),
    ("A", "AB", GIFT),
    ("可撤销、有效、无效、效力待定", "效力待定", GIFT),
    ("不是效力待定", "效力待定", GIFT),
    ("5", "-5", SIGNS),
    ("15", "1.5", SIGNS),
    ("不是逆选择", "逆选择", ""),
    ("道德风险", "逆选择", ""),
    ("可以抵扣进项税额的全部金额", "不可以抵扣进项税额的全部金额", ""),
    ("资产负债表日", "资产负债表日;期末汇率", ""),
]


@pytest.mark.parametrize(("given_answer", "gold", "question"), RIGHT)
def test_right(given_answer: str, gold: str, question: str) -> None:
    grade = grade_finance(answered(given_answer), gold, question)
    assert grade.is_correct
    assert grade.score == 1.0


@pytest.mark.parametrize(("given_answer", "gold", "question"), WRONG)
def test_wrong(given_answer: str, gold: str, question: str) -> None:
    grade = grade_finance(answered(given_answer), gold, question)
    assert not grade.is_correct
    assert grade.score == 0.0


def test_an_answer_without_tags_counts_and_one_within_the_reasoning_does_not() -> None:
    assert grade_finance("所以2022年营收是800万元。", "800", REVENUE).is_correct
    assert grade_finance("<think>答案是800", "800", REVENUE).strategy == "no_answer"
    assert not grade_finance("<think>800</think><answer></answer>", "800", REVENUE).is_correct
    last_tag_counts = "<answer>700</answer><think>x</think><answer>800</answer>"
    assert answer_region(last_tag_counts) == "800"


@given(st.text(alphabet=" \t\n.,;:!?。，；：！？（）()*_\"'", max_size=12), st.text(max_size=12))
@example("", "")
@example("？", "？")
def test_a_gold_answer_without_content_equals_nothing(gold: str, output: str) -> None:
    for text in (output, answered(output), answered(gold), gold):
        grade = grade_finance(text, gold)
        assert (grade.is_correct, grade.strategy) == (False, "unparsable_ground_truth")


@given(st.text(max_size=200), st.text(max_size=40), st.text(max_size=80))
@example("<answer>A</answer>" * 20, "A", "x\nA. \nB. y")
@example("<answer>1/0</answer>", "1/0", "")
def test_no_text_breaks_it(output: str, gold: str, question: str) -> None:
    grade = grade_finance(output, gold, question)
    assert grade.score in (0.0, 1.0)


@pytest.mark.parametrize("output", [None, 800, ["800"]])
def test_what_is_no_text_is_no_answer(output: object) -> None:
    grade = grade_finance(output, "800")  # type: ignore[arg-type]
    assert (grade.is_correct, grade.strategy) == (False, "no_answer")


AMOUNTS = st.decimals(-(10**6), 10**6, places=2, allow_nan=False)
UNITS = {"元": 1, "千元": 10**3, "万元": 10**4, "百万元": 10**6, "亿元": 10**8}


@given(AMOUNTS, st.sampled_from(sorted(UNITS)), st.sampled_from(sorted(UNITS)))
def test_units_convert_exactly(amount: Decimal, unit: str, other: str) -> None:
    """Against decimal arithmetic: the same money in another unit is equal, any other money is not."""
    same = Fraction(amount) * UNITS[unit] / UNITS[other]
    written = format(Decimal(same.numerator) / Decimal(same.denominator), "f")
    gold, given_amount = read_amount(f"{amount}{unit}"), read_amount(f"{written}{other}")
    assert gold is not None
    assert given_amount is not None
    assert equal_amounts(given_amount, gold)
    more = read_amount(f"{amount + 1}{unit}")
    assert more is not None
    assert not equal_amounts(more, gold)


@given(AMOUNTS, AMOUNTS)
def test_bare_numbers_are_equal_exactly_when_they_are(one: Decimal, other: Decimal) -> None:
    left, right = read_amount(str(one)), read_amount(str(other))
    assert left is not None
    assert right is not None
    assert equal_amounts(left, right) == (abs(Fraction(one) - Fraction(other)) <= Fraction(1, 200))


@pytest.mark.parametrize(
    ("question", "unit"),
    [
        ("年折旧额是多少万元？", AskedUnit(10**4, False, True)),
        ("利润总额的影响金额为____万元。\nA. 500\nB. 700元", AskedUnit(10**4, False, True)),
        ("本金240万元，利息共多少元？", AskedUnit(1, False, True)),
        (REVENUE, AskedUnit(10**4)),
        ("本金240万元，手续费5000元，求合计", AskedUnit()),
        ("毛利率为（）%", AskedUnit(None, True, True, True)),
        (IN_MILLION, AskedUnit(10**6, False, True)),
        ("How many units break even?", AskedUnit()),
    ],
)
def test_the_unit_that_a_question_asks_for(question: str, unit: AskedUnit) -> None:
    assert asked_unit(question) == unit


@pytest.mark.parametrize(
    "text", ["5或6", "5 + 3", "1,23", "约", "", "A", "减少5", "2023年至", "x" * 500]
)
def test_no_amount(text: str) -> None:
    assert read_amount(text) is None


def test_a_range_hands_its_unit_to_both_ends() -> None:
    both = read_range("3-5万元")
    assert both is not None
    assert [(end.number, end.scale) for end in both] == [(3, 10_000), (5, 10_000)]


def test_options_are_read_from_lines_and_from_one_line() -> None:
    assert read_options(GIFT) == {"A": "可撤销", "B": "有效", "C": "无效", "D": "效力待定"}
    assert read_options("对吗？ A. 对 B. 错") == {"A": "对", "B": "错"}
    assert read_options("A股和B股有何不同？") == {}
    assert read_options("x\nB. 一\nC. 二") == {}
