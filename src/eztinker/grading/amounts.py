"""Amounts of money, shares and rates as finance texts write them, and when two of them are equal.

``800万元``, ``8,000,000``, ``1亿2000万``, ``-3.5%``, ``$236 million``, ``百分之十二点五``, ``3-5万元``. An amount keeps
what was written beside what it is worth, because a bare ``800`` means 800 万元 where the question asks for 万元.
Pure; knows no answer and no model. Called by ``finance.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from eztinker.grading.numbers import normalise, parse_value

_ZH_SCALES = {
    "万亿": 10**12, "千亿": 10**11, "百亿": 10**10, "十亿": 10**9, "亿": 10**8, "億": 10**8,
    "千万": 10**7, "百万": 10**6, "十万": 10**5, "万": 10**4, "萬": 10**4, "千": 10**3,
}  # fmt: skip
_EN_SCALES = {
    "trillion": 10**12, "billion": 10**9, "million": 10**6, "thousand": 10**3, "bn": 10**9, "mn": 10**6,
}  # fmt: skip
_SCALES: dict[str, int] = _ZH_SCALES | _EN_SCALES | {f"{k}s": v for k, v in _EN_SCALES.items()}
_ZH = "|".join(_ZH_SCALES)
_EN = "|".join(sorted((k for k in _SCALES if k.isascii()), key=len, reverse=True))
_MONEY = r"(?:人民币|美|港|欧|日)?(?:元|圆)|美金|欧元|英镑|dollars?|yuan|RMB|CNY|USD|HKD|EUR"
_PERCENT = r"%|percent(?:age points?)?|per cent|pct|个?百分点"
_AMOUNT = re.compile(
    r"(?P<sign>[-+负負])?\s?(?:(?:US|HK)?[$¥€£]|(?:RMB|CNY|USD)(?![A-Za-z]))?\s?(?P<sign2>[-+])?"
    r"(?P<core>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    rf"(?:\s?(?:(?P<percent>{_PERCENT})|(?P<scale>{_ZH}|(?:{_EN})(?![A-Za-z]))?"
    rf"(?P<more>[0-9]+(?:\.[0-9]+)?(?:{_ZH}))?\s?(?P<money>{_MONEY})?))?",
    re.I,
)
_MORE = re.compile(rf"(?P<core>[0-9]+(?:\.[0-9]+)?)(?P<scale>{_ZH})")
_GOES_ON = re.compile(r"\s?[*/^]\s?[0-9(]|[eE][-+]?[0-9]|\s[0-9]+/[0-9]")
_RANGE = re.compile(r"(?P<low>.+?)\s?(?:-|至|到|~|～|\bto\b)\s?(?P<high>.+)", re.I)
_SAYS_SIZE = re.compile(rf"[千百万萬亿億]|{_MONEY}", re.I)
_NAMED_UNITS = {
    "year": r"年|years?\b", "month": r"个?月|months?\b", "day": r"[天日](?!元)|days?\b", "hour": r"个?小时|hours?\b",
    "dollar": r"美元|美金|US\s?dollars?\b|USD", "euro": r"欧元|euros?\b|EUR", "pound": r"英镑|pounds?\b|GBP",
    "yen": r"日元|yen\b|JPY", "hkd": r"港[元币]|HKD", "yuan": r"人民币|RMB|CNY|yuan\b",
}  # fmt: skip
_NAMED_UNIT = re.compile(
    rf"[0-9〇零一二两三四五六七八九十百千半]\s?(?:{_ZH}|(?:{_EN})\s)?\s?(?:"
    + "|".join(f"(?P<{name}>{pattern})" for name, pattern in _NAMED_UNITS.items())
    + ")",
    re.I,
)
_SAME = Fraction(1, 10**9)
MAX_CHARS = 120


@dataclass(frozen=True, slots=True)
class Amount:
    """A number with what was written around it.

    Attributes:
        number: as written, before scale and percent sign: 800 of ``800万元``, 12.5 of ``12.5%``.
        scale: what it is multiplied by: 10,000 of ``800万元``, 1 of ``800元``; None where nothing says it.
        is_percent: whether a percent sign or word stood behind it.
        places: decimals written; None for a number that is exact, such as 1/3.
    """

    number: Fraction
    scale: int | None = None
    is_percent: bool = False
    places: int | None = None

    @property
    def slack(self) -> Fraction:
        """Half of the last decimal written, in units of ``number``; 0 for a whole number."""
        return Fraction(1, 2 * 10**self.places) if self.places else Fraction(0)


@dataclass(frozen=True, slots=True)
class AskedUnit:
    """In which unit a question wants its answer.

    Attributes:
        scale: 10,000 for 万元, 1 for 元, None where nothing is said.
        is_percent: per cent.
        is_explicit: the question asks for it; otherwise all its own amounts are in this unit.
        is_rate: the question is about a rate or share, so that a percent sign is natural in the answer.
    """

    scale: int | None = None
    is_percent: bool = False
    is_explicit: bool = False
    is_rate: bool = False


# Reading --------------------------------------------------------------------------------------------


def read_amount(text: str) -> Amount | None:
    """The amount that a text *is*, or None."""
    plain = normalise(text).strip().strip("*_`\"' ").rstrip(".。,;，；").strip()
    if not plain or len(plain) > MAX_CHARS:
        return None
    found = amount_at(plain, 0)
    if found is not None and not plain[found[1] :].strip():
        return found[0]
    value = parse_value(plain)
    if value is None:
        return None
    if found is not None:  # a number and a unit of no size: 5年, 2倍
        return found[0]
    says_size = not value.is_percent and _SAYS_SIZE.search(plain)
    scale = 1 if says_size else None
    return Amount(value.number, scale, value.is_percent)


def amount_at(plain: str, at: int) -> tuple[Amount, int] | None:
    """The amount in digits at a place of a normalised text, and where it ends; None where there is none."""
    match = _AMOUNT.match(plain, at)
    if match is None or _GOES_ON.match(plain, match.end()):
        return None
    core = match["core"].replace(",", "")
    number = -Fraction(core) if _is_negative(match) else Fraction(core)
    places = len(core.partition(".")[2])
    if match["percent"]:
        return Amount(number, None, True, places), match.end()
    scale = _SCALES[match["scale"].lower()] if match["scale"] else None
    if match["more"] and scale is not None:
        rest = _MORE.fullmatch(match["more"])
        assert rest is not None  # the same pattern found it
        low = Fraction(rest["core"]) * _SCALES[rest["scale"]]
        whole = number * scale + (low if number >= 0 else -low)
        return Amount(whole, 1, places=0), match.end()
    if match["more"]:
        return None
    return Amount(
        number, 1 if scale is None and match["money"] else scale, False, places
    ), match.end()


def units_named(text: str) -> frozenset[str]:
    """Spans of time and currencies behind the numbers of a text: ``5年`` -> {year}, ``3亿美元`` -> {dollar}, ``5元`` -> {}."""
    found = _NAMED_UNIT.finditer(normalise(text[:MAX_CHARS]))
    return frozenset(match.lastgroup for match in found if match.lastgroup)


def _is_negative(match: re.Match[str]) -> bool:
    return (match["sign"] or "+") in "-负負" or match["sign2"] == "-"


def read_range(text: str) -> tuple[Amount, Amount] | None:
    """Both ends of a range such as ``3-5万元`` or ``10%至15%``; the first takes the second's unit if it has none."""
    plain = normalise(text).strip().rstrip(".。")
    match = _RANGE.fullmatch(plain) if len(plain) <= MAX_CHARS else None
    if match is None:
        return None
    low, high = read_amount(match["low"]), read_amount(match["high"])
    if low is None or high is None:
        return None
    if low.scale is None and not low.is_percent:
        low = replace(low, scale=high.scale, is_percent=high.is_percent)
    return low, high


# What a question asks for -----------------------------------------------------------------------------

_SCALE_UNIT = rf"(?P<scale>{_ZH})?(?:元|股|美元|人民币|港元|欧元|份|件|人|吨)"
_UNIT = rf"(?:{_SCALE_UNIT}|(?P<percent>%|％|个?百分点))"
_ASKED = (
    re.compile(rf"(?:[（(]\s*[)）]|_{{2,}})\s*{_UNIT}"),
    re.compile(rf"(?:多少|几|若干)个?{_UNIT}"),
    re.compile(rf"(?:单位|以)(?:为|是|[:：])?\s*{_UNIT}"),
    re.compile(rf"[（(]\s*{_UNIT}\s*[)）]\s*(?:[。？?：:]|$)", re.M),
    re.compile(rf"求[^，。？?]{{1,20}}[（(]{_UNIT}[)）]"),
    re.compile(r"(?P<percent>百分之几|百分之多少|answer in (?:percent|%)|in percent)", re.I),
    re.compile(r"(?:answer )?in (?:\$\s?)?(?P<scale>trillions?|billions?|millions?|thousands?)\b", re.I),
    re.compile(r"how many (?:US )?(?P<scale>trillions?|billions?|millions?|thousands?)?\s?(?:of )?(?:dollars|yuan)", re.I),
)  # fmt: skip
_OWN_AMOUNT = re.compile(rf"[0-9]\s?(?P<scale>{_ZH})?(?:元|美元|港元)")
_OPTIONS_BEGIN = re.compile(r"\n\s*A\s*[.．、:：)）]")
_RATE = re.compile(
    r"率|占比|比例|比重|百分|涨幅|跌幅|增幅|percent|\brate|growth|margin|yield|return|proportion|share of", re.I
)  # fmt: skip


def asked_unit(question: str) -> AskedUnit:
    """What a question says about the unit of its answer; the last place that says something counts."""
    text = _OPTIONS_BEGIN.split(question.replace("％", "%"), maxsplit=1)[0]
    is_rate = bool(_RATE.search(text))
    found = [match for pattern in _ASKED for match in pattern.finditer(text)]
    if found:
        groups = max(found, key=lambda match: match.end()).groupdict()
        scale = groups.get("scale")
        if groups.get("percent"):
            return AskedUnit(is_percent=True, is_explicit=True, is_rate=True)
        return AskedUnit(_SCALES[scale.lower()] if scale else 1, False, True, is_rate)
    own = {match["scale"] for match in _OWN_AMOUNT.finditer(text)}
    if len(own) == 1 and (scale := own.pop()):
        return AskedUnit(_SCALES[scale], is_rate=is_rate)
    return AskedUnit(is_rate=is_rate)


# Comparing ------------------------------------------------------------------------------------------


def equal_amounts(given: Amount, gold: Amount, asked: AskedUnit | None = None) -> bool:
    """Whether a given amount is the right one.

    A unit that is written counts. A bare number is in the unit that the question asks for. Equal means equal, or equal
    once rounded to the decimals of ``gold``: 19.4312 is 19.43; a whole ``gold`` leaves no room. ``12.5%`` is 0.125
    and not 12.5, unless the question asks for per cent (both are then written without the sign) or is about a rate
    and ``gold`` has no unit.
    """
    asked = asked or AskedUnit()
    if _is_bare(given) and _is_bare(gold):
        return _close(given.number, gold.number, gold.slack)
    factor = _factor(gold, asked)
    wanted, slack = gold.number * factor, gold.slack * factor
    if any(_close(given.number * one, wanted, slack) for one in _readings(given, gold, asked)):
        return True
    is_signed_rate = given.is_percent and _is_bare(gold) and asked.is_rate
    return is_signed_rate and _close(given.number, gold.number, gold.slack)


def _is_bare(amount: Amount) -> bool:
    return amount.scale is None and not amount.is_percent


def _factor(amount: Amount, asked: AskedUnit) -> Fraction:
    """What the written number is multiplied by to be plain."""
    if amount.is_percent or (_is_bare(amount) and asked.is_percent):
        return Fraction(1, 100)
    return Fraction(amount.scale or asked.scale or 1)


def _readings(given: Amount, gold: Amount, asked: AskedUnit) -> list[Fraction]:
    """A bare number beside a gold answer that writes its unit may be plain, or in the unit of the question."""
    usual = _factor(given, asked)
    may_be_plain = _is_bare(given) and gold.scale is not None and not asked.is_explicit
    return [usual, Fraction(1)] if may_be_plain else [usual]


def _close(given: Fraction, gold: Fraction, slack: Fraction) -> bool:
    return abs(given - gold) <= max(slack, abs(gold) * _SAME)
