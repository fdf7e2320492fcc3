"""Verdicts: what is read from an answer, what counts as equal, and LawShift's rule of success."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import InvalidRequestError
from eztinker.grading.legal import (
    ACQUITTAL,
    TermRule,
    Verdict,
    grade_verdict,
    read_charges,
    read_prison_time,
    read_term,
    read_verdict,
    succeeds,
)

THEFT = Verdict(frozenset({"盗窃"}), 36)


@pytest.mark.parametrize(
    ("text", "months"),
    [
        ("36", 36), ("36个月", 36), ("36 月", 36), ("３６", 36), ("三年", 36), ("3年", 36), ("三年六个月", 42),
        ("3年6个月", 42), ("有期徒刑三年又六个月", 42), ("一年半", 18), ("半年", 6), ("六个月", 6), ("拘役四个月", 4),
        ("十五年", 180), ("二十五年", 300), ("3.5年", 42), ("有期徒刑三年，缓刑四年", 36), ("0", 0), ("免予刑事处罚", 0),
        ("XT", "XT"), ("xt", "XT"), ("无期", "XT"), ("无期徒刑", "XT"), ("死刑", "XT"), ("死刑，缓期二年执行", "XT"),
        ("10000", "XT"), ("10001", "XT"), ("三年。", 36), ("两年", 24), ("叁年陆个月", 42), ("贰拾年", 240),
    ],
)  # fmt: skip
def test_terms(text: str, months: object) -> None:
    assert read_term(text) == months


@pytest.mark.parametrize(
    "text", ["", "月", "年", "三年至五年", "三年以上", "-3", "3-5年", "abc", "3.7", "0.1年", "99999", "半年半", "不违规",
             "百年", "十十年", "二三十个月"]
)  # fmt: skip
def test_what_is_no_term(text: str) -> None:
    assert read_term(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "盗窃罪 | 36", "盗窃|36", "盗窃罪｜３６个月", "  盗窃罪 |三年  ", "判决结果：盗窃罪 | 有期徒刑三年", "**盗窃罪 | 36**",
        "罪名：盗窃罪 | 刑期：36个月", "<think>诈骗罪 | 12\n还是盗窃</think>\n盗窃罪 | 36", "犯盗窃罪 | 36",
        "说明如下。\n盗窃罪 | 36\n盗窃罪 | 36个月", "盗 窃 罪 | 36。", "构成盗窃罪 | 36",
    ],
)  # fmt: skip
def test_one_verdict_in_many_dresses(text: str) -> None:
    assert read_verdict(text) == THEFT


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_verdict"), ("我不知道", "no_verdict"), ("盗窃罪，36个月", "no_verdict"), ("| 36", "no_verdict"),
        ("盗窃罪 | 很久", "no_verdict"), ("罪名 | 月数", "no_verdict"), ("盗窃罪 | 12\n盗窃罪 | 36", "two_verdicts"),
        ("盗窃罪 | 36\n不违规", "two_verdicts"), ("<think>盗窃罪 | 36", "unfinished_thinking"), ("本案并非不违规", "no_verdict"),
        ("盗窃罪 | 12 | 36", "no_verdict"), ("不违规 | 0", "no_verdict"), ("无罪 | 0", "no_verdict"),
        ("不构成犯罪 | 0", "no_verdict"), ("没有犯罪 | 0", "no_verdict"), ("不违规、盗窃罪 | 36", "no_verdict"),
    ],
)  # fmt: skip
def test_what_is_no_verdict(text: str, reason: str) -> None:
    assert read_verdict(text) == reason


def test_acquittals() -> None:
    assert read_verdict("不违规") == read_verdict("判决：不违规。") == ACQUITTAL


def test_charges_are_sets_of_names() -> None:
    assert read_charges("盗窃罪、诈骗罪") == read_charges("诈骗,盗窃罪") == {"盗窃", "诈骗"}
    long_name = "走私、贩卖、运输、制造毒品"
    assert read_charges(long_name + "罪") == read_charges(long_name)
    assert read_charges("掩饰、隐瞒犯罪所得罪") == read_charges("掩饰、隐瞒犯罪所得")


@pytest.mark.parametrize(
    ("value", "term"), [(36, 36), ("36", 36), (10000, "XT"), (10001, "XT"), ("XT", "XT"), ("无期", "XT"), ("死刑", "XT"), (0, 0)]
)  # fmt: skip
def test_the_courts_term(value: object, term: object) -> None:
    assert read_prison_time(value) == term


@pytest.mark.parametrize("value", [None, "", True, 3.5, -1, [36], "三年至五年"])
def test_a_term_that_cannot_be_read_is_an_error(value: object) -> None:
    with pytest.raises(InvalidRequestError, match="prison_time"):
        read_prison_time(value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("盗窃罪 | 36", "correct"), ("盗窃罪 | 37", "wrong_term"), ("诈骗罪 | 36", "wrong_charge"),
        ("诈骗罪 | 12", "wrong_charge_and_term"), ("不违规", "wrongly_acquitted"), ("盗窃罪 | XT", "wrong_term"),
        ("盗窃罪、诈骗罪 | 36", "wrong_charge"), ("?", "no_verdict"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_reason(text: str, reason: str) -> None:
    assert grade_verdict(text, THEFT).reason == reason


def test_nobody_is_convicted_who_is_not_guilty() -> None:
    assert grade_verdict("盗窃罪 | 0", ACQUITTAL).reason == "wrongly_convicted"
    assert grade_verdict("不违规", ACQUITTAL).is_correct


def test_tolerance_and_bands() -> None:
    near, bands = TermRule(tolerance_months=2), TermRule(bands_months=(36, 120))
    assert grade_verdict("盗窃罪 | 38", THEFT, near).is_correct
    assert not grade_verdict("盗窃罪 | 39", THEFT, near).is_correct
    assert grade_verdict("盗窃罪 | 1", THEFT, bands).is_correct
    assert not grade_verdict("盗窃罪 | 37", THEFT, bands).is_correct
    assert not grade_verdict("盗窃罪 | XT", THEFT, TermRule(tolerance_months=1200)).is_correct
    for wrong in (
        {"tolerance_months": -1},
        {"bands_months": (5, 3)},
        {"tolerance_months": 1, "bands_months": (3,)},
    ):
        with pytest.raises(InvalidRequestError):
            TermRule(**wrong)


def guilty(term: object) -> Verdict:
    return Verdict(frozenset({"盗窃"}), term)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("label", "split", "right", "wrong"),
    [
        ("V", "original", [guilty(1), guilty("XT")], [ACQUITTAL, None]),
        ("V", "poisoned", [guilty(1)], [ACQUITTAL, None]),
        ("NV", "original", [guilty(1)], [ACQUITTAL]),
        ("NV", "poisoned", [ACQUITTAL], [guilty(1), None]),
        ("TU", "original", [guilty(36), guilty(120)], [guilty(35), guilty(121), guilty("XT"), ACQUITTAL]),
        ("TU", "poisoned", [guilty(120), guilty(180)], [guilty(119), guilty("XT"), ACQUITTAL]),
        ("TD", "original", [guilty(60)], [guilty(12), ACQUITTAL]),
        ("TD", "poisoned", [guilty(36), guilty(0)], [guilty(37), guilty("XT"), ACQUITTAL]),
        ("XT", "original", [guilty(60)], [guilty("XT"), ACQUITTAL]),
        ("XT", "poisoned", [guilty("XT")], [guilty(300), ACQUITTAL]),
        ("NX", "original", [guilty("XT")], [guilty(300), ACQUITTAL]),
        ("NX", "poisoned", [guilty(36), guilty(180)], [guilty("XT"), guilty(35), ACQUITTAL]),
    ],
)  # fmt: skip
def test_success_follows_the_law_in_the_prompt(label, split, right, wrong) -> None:
    assert all(succeeds(label, split, verdict) for verdict in right)
    assert not any(succeeds(label, split, verdict) for verdict in wrong)


@given(
    st.text(
        alphabet="盗窃罪|｜不违规三年六个月十百半XT无期死刑0123456789:：<think>/\n ", max_size=60
    )
)
def test_reading_never_raises(text: str) -> None:
    read, grade = read_verdict(text), grade_verdict(text, THEFT)
    assert (grade.reason if grade.verdict is None else grade.verdict) == read
    assert grade.is_correct == (read == THEFT)


@given(st.integers(0, 1200))
def test_months_round_trip(months: int) -> None:
    assert read_term(str(months)) == months
    years, rest = divmod(months, 12)
    if years and rest:
        assert read_term(f"有期徒刑{years}年{rest}个月") == months
