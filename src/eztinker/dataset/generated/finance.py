"""Finance calculation questions, Chinese and English.

The templates and one function that draws from them; the solutions are written for the
``<think>…</think><answer>…</answer>`` form. No prompts and no grading: see ``sets``. Called by
``sets`` and by the script that builds the ``nano`` base model.
"""

from __future__ import annotations

import random

from eztinker.dataset.generated.problem import Problem, Split, Step, Template
from eztinker.dataset.generated.words import draw_words

FIRMS_ZH = ("甲公司", "乙公司", "丙公司", "华星公司", "东方公司", "长江公司", "天成公司", "某企业")
FIRMS_EN = ("Acme", "Northwind", "Bluefin", "Harbor Foods", "Lakeside Tools", "Sunrise Media")

CHINESE: tuple[Template, ...] = (
    Template(
        "zh_simple_interest",
        "zh",
        (
            "{n}存入银行{a}元，年利率{b}%，按单利计算，{d}年后利息共多少元？",
            "本金{a}元，年利率{b}%，单利计息，{d}年的利息是多少元？",
        ),
        {"a": (100, 1000, 100), "b": (1, 9), "d": (2, 5)},
        (Step("x = a * b / 100", "元"), Step("y = x * d", "元")),
        largest=900,
    ),
    Template(
        "zh_gross_profit",
        "zh",
        (
            "{f}销售{a}件商品，每件售价{b}元，总成本{d}元，利润是多少元？",
            "{f}以每件{b}元卖出{a}件产品，总成本为{d}元，求利润（元）。",
        ),
        {"a": (2, 9), "b": (5, 15), "d": (10, 100, 5)},
        (Step("x = a * b", "元收入"), Step("y = x - d", "元")),
        largest=300,
        extra_words={"f": FIRMS_ZH},
    ),
    Template(
        "zh_depreciation",
        "zh",
        (
            "{f}购入设备原价{a}万元，预计净残值{b}万元，使用{d}年，直线法年折旧额是多少万元？",
            "一项固定资产原值{a}万元，残值{b}万元，折旧年限{d}年，按直线法每年折旧多少万元？",
        ),
        {"a": (20, 90), "b": (2, 20), "d": (2, 8)},
        (Step("x = a - b", "万元"), Step("y = x / d", "万元")),
        extra_words={"f": FIRMS_ZH},
    ),
    Template(
        "zh_pe_ratio",
        "zh",
        (
            "{f}股价{a}元，每股收益{b}元，市盈率是多少倍？",
            "某股票价格为{a}元，每股盈利{b}元，市盈率为多少？",
        ),
        {"a": (10, 110), "b": (2, 9)},
        (Step("x = a / b", "倍"),),
        extra_words={"f": FIRMS_ZH},
    ),
    Template(
        "zh_dividend",
        "zh",
        (
            "{n}持有{a}股，每股分红{b}元，税率{d}%，税后分红多少元？",
            "{n}有{a}股股票，每股派息{b}元，缴纳{d}%的税后得到多少元？",
        ),
        {"a": (10, 100, 10), "b": (1, 5), "d": (10, 20, 10)},
        (
            Step("x = a * b", "元"),
            Step("y = x * d / 100", "元税"),
            Step("z = x - y", "元"),
        ),
        largest=500,
    ),
    Template(
        "zh_asset_equation",
        "zh",
        (
            "{f}资产总额{a}万元，流动负债{b}万元，长期负债{d}万元，所有者权益是多少万元？",
            "{f}的资产为{a}万元，负债包括流动负债{b}万元和长期负债{d}万元，净资产为多少万元？",
        ),
        {"a": (60, 150), "b": (5, 50), "d": (5, 50)},
        (Step("x = b + d", "万元负债"), Step("y = a - x", "万元")),
        extra_words={"f": FIRMS_ZH},
    ),
)

ENGLISH: tuple[Template, ...] = (
    Template(
        "simple_interest",
        "en",
        (
            "{n} deposits {a} dollars at {b}% simple interest a year. How much interest is earned in {d} years?",
            "A loan of {a} dollars has a simple interest rate of {b}% a year. What is the interest for {d} years?",
        ),
        {"a": (100, 1000, 100), "b": (1, 9), "d": (2, 5)},
        (Step("x = a * b / 100", " dollars a year"), Step("y = x * d", " dollars")),
        largest=900,
    ),
    Template(
        "profit",
        "en",
        (
            "{f} sells {a} units at {b} dollars each. Total costs are {d} dollars. What is the profit?",
            "{f} has costs of {d} dollars and sells {a} units for {b} dollars each. What is its profit in dollars?",
        ),
        {"a": (2, 9), "b": (5, 15), "d": (10, 100, 5)},
        (Step("x = a * b", " dollars of sales"), Step("y = x - d", " dollars")),
        largest=300,
        extra_words={"f": FIRMS_EN},
    ),
    Template(
        "break_even",
        "en",
        (
            "{f} has fixed costs of {a} dollars, a price of {b} dollars and a unit cost of {d} dollars. How many units to break even?",
            "Fixed costs are {a} dollars, each unit sells for {b} dollars and costs {d} dollars. What is the break-even quantity?",
        ),
        {"a": (20, 120, 4), "b": (4, 15), "d": (2, 9)},
        (Step("x = b - d", " dollars a unit"), Step("y = a / x", " units")),
        extra_words={"f": FIRMS_EN},
    ),
    Template(
        "earnings_per_share",
        "en",
        (
            "{f} earns {a} dollars, pays {b} dollars to preferred holders and has {d} shares. What are the earnings per share?",
            "Net income is {a} dollars, preferred dividends are {b} dollars and {d} shares are outstanding. What is the EPS in dollars?",
        ),
        {"a": (30, 100), "b": (2, 30), "d": (2, 9)},
        (Step("x = a - b", " dollars"), Step("y = x / d", " dollars a share")),
        extra_words={"f": FIRMS_EN},
    ),
)

TEMPLATES: tuple[Template, ...] = CHINESE + ENGLISH


def draw_finance(
    rng: random.Random, split: Split, templates: tuple[Template, ...] = TEMPLATES
) -> Problem:
    """Draw one question of ``split``: a template evenly, then numbers, then words."""
    template = rng.choice(templates)
    while True:
        problem = template.draw(rng, draw_words(rng, template.language))
        if problem.split == split:
            return problem
