"""Number words: reads *twenty one*, *two and a half*, 一百零五, 3.5万 as exact rationals.

Pure text to ``Fraction``. It does not search prose: callers hand it the words that stand where an answer
stands (``numbers.py``), because *one* or 一 inside a sentence is rarely a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

_ONES = {
    word: value
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
} | {"fourty": 40}
SCALES = {
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fifth": 5, "fifths": 5}  # fmt: skip
_AFTER_ARTICLE = {"hundred", "dozen", *SCALES}
_NUMBER_WORDS = {*_ONES, *_TENS, "hundred", *SCALES}

_DIGITS = {
    char: value
    for value, chars in enumerate(
        ("零〇", "一壹", "二两兩贰貳", "三叁參", "四肆", "五伍", "六陆陸", "七柒", "八捌", "九玖")
    )
    for char in chars
}
_SMALL_UNITS = {"千": 1000, "仟": 1000, "百": 100, "佰": 100, "十": 10, "拾": 10}
_LARGE_UNITS = (("亿億", 10**8), ("万萬", 10**4))
CHINESE_NUMERALS = "".join([*_DIGITS, *_SMALL_UNITS, "亿億万萬"])
_PLAIN = re.compile(r"[0-9]{1,30}(?:\.[0-9]{1,30})?")
_MAX_CHARS = 60


def english_number(words: Sequence[str]) -> tuple[Fraction, int] | None:
    """Read a number from the start of lower-case words.

    Returns:
        The number and how many words it took, or None when the first words are no number.
    """
    if words and words[0] in ("minus", "negative"):
        found = english_number(words[1:])
        return found and (-found[0], found[1] + 1)
    if words[:1] == ["half"]:
        return (Fraction(6), 3) if words[1:3] == ["a", "dozen"] else (Fraction(1, 2), 1)
    value, used = _cardinal(words)
    if not used:
        return None
    return _with_fraction(Fraction(value), used, words)


def _with_fraction(value: Fraction, used: int, words: Sequence[str]) -> tuple[Fraction, int]:
    after = list(words[used : used + 3])
    if after[:1] == ["dozen"]:
        return value * 12, used + 1
    if after[:1] and after[0] in _PARTS:
        return value / _PARTS[after[0]], used + 1
    if after[:2] == ["and", "a"] and after[2:] and after[2] in _PARTS:
        return value + Fraction(1, _PARTS[after[2]]), used + 3
    return value, used


def _cardinal(words: Sequence[str]) -> tuple[int, int]:
    """Value and number of words used; 0 words when none is a number."""
    total, group, scale_below, used = 0, None, 10**15, 0
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else ""
        if word in ("a", "an") and i == 0 and following in _AFTER_ARTICLE:
            group = 1
        elif word == "and" and used and following in _NUMBER_WORDS and (group or 0) % 100 == 0:
            continue  # counted with the word after it
        elif word in _ONES or word in _TENS:
            joined = _join(group, word)
            if joined is None:
                break
            group = joined
        elif word == "hundred" and group is not None and 0 < group < 100:
            group *= 100
        elif word in SCALES and group and SCALES[word] < scale_below:
            scale_below = SCALES[word]
            total, group = total + group * scale_below, None
        else:
            break
        used = i + 1
    return total + (group or 0), used


def _join(group: int | None, word: str) -> int | None:
    """*twenty* + *one*, *one hundred* + *twenty*; None where the words do not belong together."""
    value = _ONES.get(word, _TENS.get(word, 0))
    if group is None:
        return value
    if value == 0:
        return None
    if group >= 100 and group % 100 == 0:
        return group + value
    if group % 100 >= 20 and group % 10 == 0 and value < 10:
        return group + value
    return None


def chinese_number(text: str) -> Fraction | None:
    """Read a whole text such as 二十一, 一百零五, 两千三, 三点五, 三分之二, 3.5万, 1亿2000万; None if it is no number."""
    if not 0 < len(text) <= _MAX_CHARS:
        return None
    if text[0] in "负負":
        positive = chinese_number(text[1:])
        return None if positive is None else -positive
    if text in ("半", "一半"):
        return Fraction(1, 2)
    if "分之" in text:
        below, _, above = text.partition("分之")
        numerator, denominator = chinese_number(above), chinese_number(below or "零")
        return numerator / denominator if numerator is not None and denominator else None
    has_digit = any(c in _DIGITS or c.isdecimal() for c in text)
    return _section(text) if has_digit or text[0] in "十拾" else None


def _section(text: str) -> Fraction | None:
    for signs, unit in _LARGE_UNITS:
        at = max(text.rfind(sign) for sign in signs)
        if at >= 0:
            return _joined(text[:at], unit, text[at + 1 :], last_unit=unit)
    for sign, unit in _SMALL_UNITS.items():
        at = text.find(sign)
        if at >= 0:
            return _joined(text[:at], unit, text[at + 1 :], last_unit=unit)
    return _digits(text)


def _joined(left: str, unit: int, right: str, last_unit: int) -> Fraction | None:
    if len(left) > 1 and all(c in _DIGITS for c in left):
        return None  # 二三十 is twenty or thirty
    high = _section(left) if left else Fraction(1)
    low = Fraction(0)
    if right:
        found = _section(right.lstrip("零〇") or "零")
        if found is None or found >= unit:
            return None
        low = found
        if len(right) == 1 and right in _DIGITS and last_unit >= 100:
            low = found * last_unit / 10  # colloquial: 一百五 is 150, 三万五 is 35,000
    return None if high is None else high * unit + low


def _digits(text: str) -> Fraction | None:
    """Digits one after another: 二零二四, 三点一四, 3.5."""
    if _PLAIN.fullmatch(text):
        return Fraction(text)
    whole, point, part = text.replace("點", "点").partition("点")
    if not whole or (point and not part) or any(c not in _DIGITS for c in whole + part):
        return None
    digits = "".join(str(_DIGITS[c]) for c in whole)
    decimals = "".join(str(_DIGITS[c]) for c in part)
    return Fraction(f"{digits}.{decimals or 0}")
