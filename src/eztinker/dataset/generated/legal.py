"""One-line legal judgments in Chinese: facts in, ``{charge} | {months}`` or ``不违规`` out.

The law here is a toy with visible rules: below a charge's threshold the act is no offence; above it
there is a base term, 24 months more from ten times the threshold on, then additions and deductions
for circumstances. It is practice material for formats and selection, not law. No prompts and no
grading: see ``sets``. Called by ``sets`` and by the script that builds the ``nano`` base model.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from eztinker.dataset.generated.problem import Problem, Split

NOT_GUILTY = "不违规"
INSTRUCTION = "请给出罪名和刑期，格式为：罪名 | 月数，无罪则答：不违规。"
SURNAMES = [
    "王",
    "李",
    "张",
    "刘",
    "陈",
    "杨",
    "赵",
    "黄",
    "周",
    "吴",
    "徐",
    "孙",
    "胡",
    "朱",
    "高",
    "林",
    "何",
    "郭",
    "马",
    "罗",
]
PLACES = [
    "某小区",
    "某商场",
    "某车站",
    "某网吧",
    "某工地",
    "某超市",
    "某公园",
    "某酒店",
    "某村",
    "某市场",
]
YEARS = tuple(range(2012, 2024))


@dataclass(frozen=True)
class Charge:
    """An offence of the toy law.

    Attributes:
        name: the charge as the judgment names it.
        acts: texts with places ``{who}``, ``{where}``, ``{amount}``.
        threshold: smallest amount that is an offence.
        unit: unit of the amount, as the rule states it.
        base_months: term at the threshold.
    """

    name: str
    acts: tuple[str, ...]
    threshold: int
    unit: str
    base_months: int

    @property
    def article(self) -> str:
        """The rule in one sentence."""
        return (
            f"{self.name}：满{self.threshold}{self.unit}的，处{self.base_months}个月；"
            f"满{self.threshold * 10}{self.unit}的，加{LARGE_MONTHS}个月。"
        )


LARGE_MONTHS = 24
CIRCUMSTANCES: tuple[tuple[str, str, int], ...] = (
    ("累犯", "{who}系累犯。", 6),
    ("自首", "案发后{who}自首。", -3),
    ("退赔", "{who}已全部退赔。", -2),
)
CHARGES: tuple[Charge, ...] = (
    Charge(
        "盗窃罪",
        ("{who}在{where}窃取他人财物，价值{amount}元。", "{who}在{where}偷走现金{amount}元。"),
        2000,
        "元",
        12,
    ),
    Charge(
        "诈骗罪",
        (
            "{who}虚构事实，骗取他人{amount}元。",
            "{who}在{where}冒充工作人员，骗得被害人{amount}元。",
        ),
        3000,
        "元",
        18,
    ),
    Charge(
        "敲诈勒索罪",
        (
            "{who}以公开隐私相要挟，向他人索要{amount}元。",
            "{who}在{where}威胁店主，勒索{amount}元。",
        ),
        4000,
        "元",
        15,
    ),
    Charge(
        "职务侵占罪",
        (
            "{who}利用职务便利，将公司货款{amount}元据为己有。",
            "{who}担任会计，侵吞单位资金{amount}元。",
        ),
        6000,
        "元",
        24,
    ),
    Charge(
        "受贿罪",
        (
            "{who}收受他人贿赂{amount}元，为其谋取利益。",
            "{who}作为国家工作人员，收取好处费{amount}元。",
        ),
        5000,
        "元",
        30,
    ),
    Charge(
        "危险驾驶罪",
        (
            "{who}酒后驾车，血液酒精含量为{amount}毫克。",
            "{who}在{where}附近醉酒驾驶，酒精含量{amount}毫克。",
        ),
        80,
        "毫克",
        9,
    ),
)


@dataclass(frozen=True)
class Case:
    """What the judgment depends on.

    Attributes:
        charge: the offence in question.
        amount: in the unit of the charge.
        circumstances: names out of ``CIRCUMSTANCES``, in their order.
    """

    charge: Charge
    amount: int
    circumstances: tuple[str, ...]

    @property
    def months(self) -> int | None:
        """The term in months, or None when it is no offence."""
        if self.amount < self.charge.threshold:
            return None
        large = LARGE_MONTHS if self.amount >= 10 * self.charge.threshold else 0
        changes = sum(m for name, _, m in CIRCUMSTANCES if name in self.circumstances)
        return self.charge.base_months + large + changes

    @property
    def verdict(self) -> str:
        """``{charge} | {months}`` or ``不违规``."""
        return NOT_GUILTY if self.months is None else f"{self.charge.name} | {self.months}"


def draw_legal(rng: random.Random, split: Split) -> Problem:
    """Draw one case of ``split``; ``solution`` is empty, the answer is the whole judgment."""
    while True:
        problem = _problem(rng, _case(rng))
        if problem.split == split:
            return problem


def _case(rng: random.Random) -> Case:
    charge = rng.choice(CHARGES)
    low, high = rng.choice(((2, 9), (11, 99), (11, 99), (100, 250)))
    grain = max(charge.threshold // 1000, 1) * 100 if charge.threshold >= 1000 else 1
    amount = charge.threshold * rng.randint(low, high) // 10 // grain * grain
    amount += rng.randrange(10) * grain // 10
    chosen = tuple(name for name, _, _ in CIRCUMSTANCES if rng.random() < 0.35)
    return Case(charge, max(amount, grain), chosen)


def _problem(rng: random.Random, case: Case) -> Problem:
    who = rng.choice(SURNAMES) + "某"
    places = {"who": who, "where": rng.choice(PLACES), "amount": str(case.amount)}
    when = f"{rng.choice(YEARS)}年{rng.randint(1, 12)}月，" if rng.random() < 0.5 else ""
    facts = when + rng.choice(case.charge.acts).format(**places)
    facts += "".join(
        text.format(who=who) for n, text, _ in CIRCUMSTANCES if n in case.circumstances
    )
    return Problem(
        kind=f"legal_{case.charge.name}",
        language="zh",
        question=facts,
        solution="",
        answer=case.verdict,
        values=(case.amount, *case.circumstances),
        near_misses=(
            f"{case.charge.name} | {case.charge.base_months}",
            case.charge.name,
            NOT_GUILTY,
        ),
    )
