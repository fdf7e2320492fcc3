"""Arithmetic word problems of one to three steps, English and Chinese.

The templates and one function that draws from them; the solutions are written for the
``#### answer`` form. No prompts and no grading: see ``sets``. Called by ``sets`` and by the script
that builds the ``nano`` base model.
"""

from __future__ import annotations

import random

from eztinker.dataset.generated.problem import Problem, Split, Step, Template
from eztinker.dataset.generated.words import draw_words

ENGLISH: tuple[Template, ...] = (
    Template(
        "buy_and_give",
        "en",
        (
            "{n} has {a} {o}. {n} buys {b} more and gives {d} to {m}. How many {o} does {n} have now?",
            "{n} had {a} {o}, got {b} more, and then gave {d} of them away. How many {o} are left?",
        ),
        {"a": (5, 70), "b": (3, 50), "d": (2, 60)},
        (Step("x = a + b", " {o}"), Step("y = x - d", " {o} left")),
    ),
    Template(
        "boxes_and_loose",
        "en",
        (
            "{n} has {a} {c} with {b} {o} in each, and {d} loose {o}. How many {o} are there in total?",
            "There are {a} {c} of {b} {o} each. {n} adds {d} more {o}. How many {o} does {n} have?",
        ),
        {"a": (2, 9), "b": (3, 12), "d": (2, 40)},
        (Step("x = a * b", " {o} in {c}"), Step("y = x + d", " {o} in total")),
    ),
    Template(
        "share_equally",
        "en",
        (
            "{n} has {a} {o} and {m} has {b} {o}. They share all of them equally among {d} children. How many {o} does each child get?",
            "{a} {o} and {b} more {o} are put into {d} {c} equally. How many {o} are in each?",
        ),
        {"a": (4, 40), "b": (4, 30), "d": (2, 8)},
        (Step("x = a + b", " {o}"), Step("y = x / d", " {o} each")),
    ),
    Template(
        "two_prices",
        "en",
        (
            "{n} buys {a} {o} at {b} dollars each and {d} {p} at {e} dollars each. How many dollars does {n} pay?",
            "At a market {o} cost {b} dollars each and {p} cost {e} dollars each. {n} takes {a} {o} and {d} {p}. What is the total cost in dollars?",
        ),
        {"a": (2, 9), "b": (2, 9), "d": (2, 9), "e": (2, 9)},
        (
            Step("x = a * b", " for {o}"),
            Step("y = d * e", " for {p}"),
            Step("z = x + y", " dollars"),
        ),
    ),
    Template(
        "change",
        "en",
        (
            "{n} buys {a} {o} for {b} dollars each and pays with {d} dollars. How much change does {n} get?",
            "{n} had {d} dollars and bought {a} {o} that cost {b} dollars each. How many dollars are left?",
        ),
        {"a": (2, 9), "b": (2, 9), "d": (20, 100, 5)},
        (Step("x = a * b", " dollars spent"), Step("y = d - x", " dollars left")),
    ),
    Template(
        "times_as_many",
        "en",
        (
            "{n} has {a} {o}. {m} has {b} times as many. How many {o} do they have together?",
            "{n} found {a} {o} and {m} found {b} times as many {o}. How many {o} did the two find in all?",
        ),
        {"a": (3, 25), "b": (2, 5)},
        (Step("x = a * b", " {o} for {m}"), Step("y = a + x", " {o} together")),
    ),
    Template(
        "more_than",
        "en",
        (
            "{n} has {a} {o}. {m} has {b} more {o} than {n}. How many {o} do they have together?",
            "{n} picked {a} {o}, and {m} picked {b} more than {n} did. How many {o} did they pick in all?",
        ),
        {"a": (5, 50), "b": (2, 40)},
        (Step("x = a + b", " {o} for {m}"), Step("y = a + x", " {o} together")),
    ),
    Template(
        "fewer_than",
        "en",
        (
            "{n} has {a} {o}. {m} has {b} fewer {o} than {n}. How many {o} do they have together?",
            "{n} made {a} {o}. {m} made {b} fewer. How many {o} did both make?",
        ),
        {"a": (10, 60), "b": (2, 40)},
        (Step("x = a - b", " {o} for {m}"), Step("y = a + x", " {o} together")),
    ),
    Template(
        "pages_left",
        "en",
        (
            "A book has {d} pages. {n} reads {a} pages a day for {b} days. How many pages are left?",
            "{n} reads {a} pages each day. After {b} days, how many pages of a {d} page book are still unread?",
        ),
        {"a": (4, 15), "b": (2, 9), "d": (40, 150, 5)},
        (Step("x = a * b", " pages read"), Step("y = d - x", " pages left")),
    ),
    Template(
        "baked_and_sold",
        "en",
        (
            "{n} bakes {a} trays of {b} muffins and sells {d} of them. How many muffins are left?",
            "A baker makes {a} trays with {b} muffins on each and gives {d} muffins away. How many muffins remain?",
        ),
        {"a": (2, 9), "b": (4, 12), "d": (3, 60)},
        (Step("x = a * b", " muffins"), Step("y = x - d", " muffins left")),
    ),
    Template(
        "wages",
        "en",
        (
            "{n} works {a} hours a day for {b} days and earns {d} dollars an hour. How many dollars does {n} earn?",
            "{n} earns {d} dollars an hour. {n} works {b} days, {a} hours each day. What is the pay in dollars?",
        ),
        {"a": (2, 5), "b": (2, 4), "d": (3, 9)},
        (Step("x = a * b", " hours"), Step("y = x * d", " dollars")),
        largest=300,
    ),
    Template(
        "half_then_more",
        "en",
        (
            "{n} has {a} {o}, gives half of them to {m} and then finds {b} more. How many {o} does {n} have?",
            "{n} had {a} {o}. Half of them were lost, then {n} got {b} new ones. How many {o} does {n} have now?",
        ),
        {"a": (8, 100, 2), "b": (3, 50)},
        (Step("x = a / 2", " {o}"), Step("y = x + b", " {o} now")),
    ),
    Template(
        "drive",
        "en",
        (
            "{n} drives {a} miles an hour for {b} hours and then {d} miles more. How many miles does {n} drive?",
            "A bus goes {a} miles an hour. After {b} hours it goes another {d} miles. How many miles is the whole trip?",
        ),
        {"a": (10, 60, 10), "b": (2, 4), "d": (3, 50)},
        (Step("x = a * b", " miles"), Step("y = x + d", " miles in all")),
        largest=360,
    ),
    Template(
        "still_to_save",
        "en",
        (
            "{n} wants a bike for {d} dollars and saves {a} dollars a week. How many dollars are missing after {b} weeks?",
            "A game costs {d} dollars. {n} has saved {a} dollars a week for {b} weeks. How many more dollars does {n} need?",
        ),
        {"a": (4, 15), "b": (2, 9), "d": (50, 150, 10)},
        (Step("x = a * b", " dollars saved"), Step("y = d - x", " dollars missing")),
    ),
    Template(
        "discount",
        "en",
        (
            "A coat costs {a} dollars. It is sold at {b} percent off. What is the new price in dollars?",
            "{n} buys a lamp of {a} dollars with a discount of {b} percent. How many dollars does {n} pay?",
        ),
        {"a": (20, 200, 10), "b": (10, 50, 10)},
        (Step("x = a * b / 100", " dollars off"), Step("y = a - x", " dollars")),
    ),
    Template(
        "boxes_give_some",
        "en",
        (
            "{n} has {a} {o} and buys {b} {c} of {d} {o}. Then {n} gives {e} {o} to {m}. How many {o} does {n} keep?",
            "{n} starts with {a} {o}, gets {b} {c} with {d} {o} each, and uses {e} {o}. How many {o} are left?",
        ),
        {"a": (3, 40), "b": (2, 8), "d": (3, 9), "e": (3, 50)},
        (
            Step("x = b * d", " {o}"),
            Step("y = a + x", " {o} in all"),
            Step("z = y - e", " {o} left"),
        ),
    ),
    Template(
        "left_over",
        "en",
        (
            "{n} had {a} {o} and gave {b} to {m}. How many {o} are left?",
            "There were {a} {o} on the table. {n} took {b} of them. How many {o} remain?",
        ),
        {"a": (10, 130), "b": (3, 90)},
        (Step("x = a - b", " {o} left"),),
    ),
    Template(
        "rows",
        "en",
        (
            "{n} plants {a} rows with {b} {o} in each row. How many {o} are planted?",
            "A hall has {a} rows of {b} seats. How many seats are there?",
        ),
        {"a": (3, 12), "b": (4, 12)},
        (Step("x = a * b", " in all"),),
    ),
)

CHINESE: tuple[Template, ...] = (
    Template(
        "zh_buy_and_give",
        "zh",
        (
            "{n}有{a}{o}，又买了{b}{o}，送给{m}{d}{o}。{n}现在有多少{o}？",
            "{n}原来有{a}{o}，得到{b}{o}，又用掉{d}{o}，还剩多少{o}？",
        ),
        {"a": (5, 70), "b": (3, 50), "d": (2, 60)},
        (Step("x = a + b", "{o}"), Step("y = x - d", "{o}")),
    ),
    Template(
        "zh_boxes",
        "zh",
        (
            "{n}有{a}盒，每盒{b}{o}，另外还有{d}{o}。一共有多少{o}？",
            "每盒装{b}{o}，{n}买了{a}盒，{m}又给了{d}{o}。共有多少{o}？",
        ),
        {"a": (2, 9), "b": (3, 12), "d": (2, 40)},
        (Step("x = a * b", "{o}"), Step("y = x + d", "{o}")),
    ),
    Template(
        "zh_share",
        "zh",
        (
            "{n}有{a}{o}，{m}有{b}{o}，合在一起平均分给{d}人，每人得多少{o}？",
            "把{a}{o}和{b}{o}平均装进{d}个盒子，每盒有多少{o}？",
        ),
        {"a": (4, 40), "b": (4, 30), "d": (2, 8)},
        (Step("x = a + b", "{o}"), Step("y = x / d", "{o}")),
    ),
    Template(
        "zh_change",
        "zh",
        (
            "每{o}{b}元，{n}买了{a}{o}，付了{d}元，应找回多少元？",
            "{n}带了{d}元，买了{a}{o}，每{o}{b}元，还剩多少元？",
        ),
        {"a": (2, 9), "b": (2, 9), "d": (20, 100, 5)},
        (Step("x = a * b", "元"), Step("y = d - x", "元")),
        extra_words={"o": ("本", "支", "个", "张", "块", "件")},
    ),
    Template(
        "zh_times",
        "zh",
        (
            "{n}有{a}{o}，{m}的数量是{n}的{b}倍。两人一共有多少{o}？",
            "{n}做了{a}{o}，{m}做的是{n}的{b}倍，两人共做了多少{o}？",
        ),
        {"a": (3, 25), "b": (2, 5)},
        (Step("x = a * b", "{o}"), Step("y = a + x", "{o}")),
    ),
    Template(
        "zh_pages",
        "zh",
        (
            "一本书有{d}页，{n}每天读{a}页，读了{b}天，还剩多少页？",
            "{n}每天读{a}页书，{b}天以后，一本{d}页的书还有多少页没读？",
        ),
        {"a": (4, 15), "b": (2, 9), "d": (40, 150, 5)},
        (Step("x = a * b", "页"), Step("y = d - x", "页")),
    ),
)

TEMPLATES: tuple[Template, ...] = ENGLISH + CHINESE


def draw_arithmetic(
    rng: random.Random, split: Split, templates: tuple[Template, ...] = ENGLISH
) -> Problem:
    """Draw one problem of ``split``: a template evenly, then numbers, then words."""
    template = rng.choice(templates)
    while True:
        problem = template.draw(rng, draw_words(rng, template.language))
        if problem.split == split:
            return problem
