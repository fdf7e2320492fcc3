"""Finance questions of kinds that the built-in model was never shown, of one to three steps, Chinese and English.

The templates of the demonstration of the finance pipeline: calculations, business decisions and risks, with small whole
numbers. ``finance`` beside it holds the kinds that nano was trained on; none of them stands here, so a base model has to
learn. No prompts, no teacher, no grading. Called by the demonstration.
"""

from __future__ import annotations

import random

from eztinker.dataset.generated.finance import FIRMS_EN, FIRMS_ZH
from eztinker.dataset.generated.problem import Problem, Step, Template
from eztinker.dataset.generated.words import draw_words

_ZH = {"f": FIRMS_ZH}
_EN = {"f": FIRMS_EN}

TEMPLATES: tuple[Template, ...] = (
    Template(
        "zh_revenue_growth",
        "zh",
        (
            "{f}去年营业收入{a}万元，今年同比增长{b}%，今年营业收入是多少万元？",
            "{f}上年营收为{a}万元，本年增长率{b}%，请计算本年营收（万元）。",
        ),
        {"a": (100, 800, 100), "b": (2, 9)},
        (Step("x = a * b / 100", "万元增长"), Step("y = a + x", "万元")),
        largest=900,
        extra_words=_ZH,
    ),
    Template(
        "zh_retained_profit",
        "zh",
        (
            "{f}净利润{a}万元，其中{b}%用于分红，留存多少万元？",
            "{f}实现净利润{a}万元，股利支付率{b}%，请计算留存收益（万元）。",
        ),
        {"a": (100, 800, 100), "b": (10, 60, 10)},
        (Step("x = a * b / 100", "万元分红"), Step("y = a - x", "万元")),
        largest=900,
        extra_words=_ZH,
    ),
    Template(
        "zh_cost_of_sales",
        "zh",
        (
            "{f}期初存货{a}万元，本期购入{b}万元，期末存货{d}万元，销售成本是多少万元？",
            "某企业期初库存{a}万元，当期采购{b}万元，期末库存{d}万元，请计算销货成本（万元）。",
        ),
        {"a": (10, 60), "b": (20, 90), "d": (5, 50)},
        (Step("x = a + b", "万元"), Step("y = x - d", "万元")),
        extra_words=_ZH,
    ),
    Template(
        "zh_working_capital",
        "zh",
        (
            "{f}现金{a}万元，应收账款{b}万元，存货{d}万元，流动负债{e}万元，营运资金是多少万元？",
            "{f}的流动资产有现金{a}万元、应收款{b}万元和存货{d}万元，流动负债{e}万元，请计算营运资本（万元）。",
        ),
        {"a": (10, 50), "b": (10, 50), "d": (10, 50), "e": (10, 60)},
        (Step("x = a + b", "万元"), Step("y = x + d", "万元流动资产"), Step("z = y - e", "万元")),
        extra_words=_ZH,
    ),
    Template(
        "zh_equity_to_profit",
        "zh",
        (
            "{f}总资产{a}万元，总负债{b}万元，净利润{d}万元，净资产是净利润的多少倍？",
            "{f}资产{a}万元，负债{b}万元，本年净利润{d}万元，净资产相当于净利润的多少倍？",
        ),
        {"a": (40, 150), "b": (10, 80), "d": (2, 9)},
        (Step("x = a - b", "万元净资产"), Step("y = x / d", "倍")),
        extra_words=_ZH,
    ),
    Template(
        "zh_better_project",
        "zh",
        (
            "{f}评估两个项目：甲项目一次性收益{a}万元，乙项目每年收益{b}万元共{d}年，乙项目比甲项目多多少万元？",
            "{f}要在两个方案中决策：方案一收益{a}万元，方案二每年{b}万元、持续{d}年，方案二多收益多少万元？",
        ),
        {"a": (10, 60), "b": (5, 25), "d": (3, 8)},
        (Step("x = b * d", "万元"), Step("y = x - a", "万元")),
        extra_words=_ZH,
    ),
    Template(
        "zh_order_decision",
        "zh",
        (
            "{f}接受一笔订单：单价{a}元，单位变动成本{b}元，数量{d}件，另付{e}元运费，这笔业务能赚多少元？",
            "{f}考虑特殊订单{d}件，每件售价{a}元、变动成本{b}元，额外支出{e}元，经营决策上增加利润多少元？",
        ),
        {"a": (10, 30), "b": (3, 20), "d": (5, 15), "e": (5, 40, 5)},
        (Step("x = a - b", "元"), Step("y = x * d", "元"), Step("z = y - e", "元")),
        extra_words=_ZH,
    ),
    Template(
        "zh_bad_loans",
        "zh",
        (
            "{f}贷款余额{a}万元，不良率{b}%，已计提拨备{d}万元，风险缺口是多少万元？",
            "某银行贷款{a}万元，不良贷款率{b}%，拨备{d}万元，未覆盖的信用风险敞口是多少万元？",
        ),
        {"a": (100, 900, 100), "b": (2, 9), "d": (1, 40)},
        (Step("x = a * b / 100", "万元不良"), Step("y = x - d", "万元")),
        largest=900,
        extra_words=_ZH,
    ),
    Template(
        "zh_stop_loss",
        "zh",
        (
            "{n}以每股{a}元买入{d}股，止损价{b}元，最大亏损风险是多少元？",
            "{n}持有{d}股股票，成本{a}元，跌到{b}元止损，市场风险损失最多多少元？",
        ),
        {"a": (10, 40), "b": (5, 38), "d": (3, 15)},
        (Step("x = a - b", "元"), Step("y = x * d", "元")),
    ),
    Template(
        "en_net_revenue",
        "en",
        (
            "{f} bills {a} dollars and gives a discount of {b}%. How much does it collect in dollars?",
            "A customer of {f} owes {a} dollars and gets {b}% off. How many dollars are paid?",
        ),
        {"a": (100, 800, 100), "b": (5, 40, 5)},
        (Step("x = a * b / 100", " dollars off"), Step("y = a - x", " dollars")),
        largest=900,
        extra_words=_EN,
    ),
    Template(
        "en_inventory_days",
        "en",
        (
            "{f} has {a} units in stock, buys {b} more and sells {d} a day. For how many days does the stock last?",
            "The stock of {f} is {a} units; {b} units arrive and {d} are sold each day. How many days until it is empty?",
        ),
        {"a": (10, 90), "b": (10, 60), "d": (3, 9)},
        (Step("x = a + b", " units"), Step("y = x / d", " days")),
        extra_words=_EN,
    ),
    Template(
        "en_loan_left",
        "en",
        (
            "{f} borrows {a} dollars and repays {b} dollars a month. How much is owed after {d} months?",
            "A loan of {a} dollars to {f} is repaid at {b} dollars a month. What is left after {d} months?",
        ),
        {"a": (60, 190, 5), "b": (4, 15), "d": (3, 9)},
        (Step("x = b * d", " dollars repaid"), Step("y = a - x", " dollars")),
        extra_words=_EN,
    ),
)


def draw_account(rng: random.Random, templates: tuple[Template, ...] = TEMPLATES) -> Problem:
    """Draw one question: a template evenly, then words, then numbers."""
    template = rng.choice(templates)
    return template.draw(rng, draw_words(rng, template.language))
