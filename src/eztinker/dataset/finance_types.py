"""The type of a finance question by rules: calculation, concept, risk, or business reasoning.

Rules are tried in this order: a question whose answer is a number and which gives numbers or asks how much is a
calculation; one that asks what something is, a concept; one about risk, risk analysis; any other, business reasoning.
Pure. Called by ``finance_sources.py``.
"""

from __future__ import annotations

import re

from eztinker.dataset.finance import QuestionType
from eztinker.grading.amounts import read_amount
from eztinker.grading.finance import read_options

_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")
_HOW_MUCH = re.compile(
    r"计算|多少|几(?:年|元|倍|股|个)|求[^职偿购]|[（(]\s*[)）]\s*(?:万|亿)?(?:元|股|%)|_{2,}\s*(?:万|亿)?(?:元|股|%)"
    r"|how (?:much|many)|calculate|compute|what (?:is|was|were|are) the (?:\w+ ){0,4}"
    r"(?:total|sum|average|change|difference|percentage|ratio|amount|number|value)",
    re.I,
)
_CONCEPT = re.compile(
    r"什么是|是什么(?:意思)?|什么叫|何谓|是指|指的是|的?(?:定义|含义|概念|涵义)|称为|叫做|又称|解释.{0,6}(?:概念|术语)"
    r"|\bdefin(?:e|ition)\b|what is meant by|\bmeaning of\b|\bconcept of\b|^what (?:is|are) (?:an? )?[\w\s-]{1,40}\?$",
    re.I | re.M,
)
_RISK = re.compile(
    r"风险|对冲|套期保值|敞口|违约|不良(?:贷款|资产)|坏账|压力测试|信用评级|久期|利率缺口|在险价值|道德危险|逆选择|损失分布"
    r"|\brisks?\b|\bhedg\w+|\bexposure\b|\bdefault (?:rate|risk|probability)|value at risk|\bVaR\b|stress test",
    re.I,
)  # fmt: skip


def question_type(question: str, gold_answer: str) -> QuestionType:
    """The type that the rules give a question.

    Args:
        question: with its options; they say what the question is about only where it alone does not.
        gold_answer: its right answer.
    """
    options = read_options(question)
    stem = question.split("\nA", 1)[0] if options else question
    if read_amount(gold_answer) is not None and _is_calculation(stem):
        return "financial_calculation"
    if _RISK.search(stem) and not _asks_for_concept_first(stem):
        return "risk_analysis"
    if _CONCEPT.search(stem):
        return "concept_qa"
    return "business_reasoning"


def _is_calculation(stem: str) -> bool:
    return len(_DIGITS.findall(stem)) >= 2 or bool(_HOW_MUCH.search(stem))


def _asks_for_concept_first(stem: str) -> bool:
    """什么是信用风险 asks for a concept, although it is one of risk."""
    found = _CONCEPT.search(stem)
    return found is not None and bool(
        re.match(r"什么|何谓|定义|含义|defin|what|meaning", found[0], re.I)
    )
