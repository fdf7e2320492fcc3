"""Numbers as people and models write them: ``$1,000``, ``3 1/2``, ``-1.2e3``, ``50%``, ``2 dozen``, ``3.5万``.

Reads a short text as one exact rational, or says that it is none. Pure; every pattern is linear in the text
and every value bounded, because the text is hostile. It does not look for answers in prose: ``answers.py``
decides where an answer stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from eztinker.grading.number_words import CHINESE_NUMERALS, SCALES, chinese_number, english_number

MAX_REGION_CHARS = 300  # longer texts are never one number
_MAX_DIGITS = 200
_MAX_EXPONENT = 400

_TRANSLATION = str.maketrans(
    {
        **{chr(0xFF10 + i): str(i) for i in range(10)},
        **dict.fromkeys("−–—‐‑‒﹣－", "-"),
        **dict.fromkeys("\u00a0\u2007\u2009\u202f", "\u00a0"),
        **dict.fromkeys("×✕∗＊⋅·", "*"),
        **dict.fromkeys("⁄∕／", "/"),
        "，": ",",
        "．": ".",
        "％": "%",
        "﹪": "%",
        "＄": "$",
        "￥": "¥",
        "＋": "+",
        "＝": "=",
        "：": ":",
        "（": "(",
        "）": ")",
        "’": "'",
        "\u3000": " ",
        "\u200b": "",
        "\ufeff": "",
        "≈": "=",
        "½": " 1/2",
        "⅓": " 1/3",
        "⅔": " 2/3",
        "¼": " 1/4",
        "¾": " 3/4",
        "⅕": " 1/5",
        "⅛": " 1/8",
    }
)
_LATEX_TEXT = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s{0,3}\{([^{}]*+)\}"
)
_LATEX_REPLACEMENTS = (
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle|!)"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([$%#&])"), r"\1"),
    (re.compile(r"\\[,;: ]|~"), "\u00a0"),
    (re.compile(r"\\(?:times|cdot)"), "*"),
    (re.compile(r"\^\s?\{?\\circ\}?"), " degrees"),
    (re.compile(r"\\[()\[\]]"), " "),
)
_THIN_GROUP = re.compile(r"(?<=[0-9])\u00a0(?=[0-9]{3}(?![0-9]))")
_SPACED_GROUPS = re.compile(r"[0-9]{1,3}(?: [0-9]{3})++(?![0-9])")

_CORE = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?|\.[0-9]++)"
_FRAC = r"\\frac\s?(?:\{{\s?(?P<{0}n>[0-9]++)\s?\}}\s?\{{\s?(?P<{0}d>[0-9]++)\s?\}}|(?P<{0}sn>[0-9])\s?(?P<{0}sd>[0-9]))"
_VALUE = re.compile(
    r"(?P<sign>[-+])?\s?"
    r"(?:(?:US|HK|NT|A|C)?[$€£¥₹₩]|(?:USD|RMB|CNY|EUR|GBP|Rs\.?)(?![A-Za-z]))?\s?"
    r"(?P<sign2>[-+])?"
    r"(?:" + _FRAC.format("f") + r"|(?P<core>" + _CORE + r")(?:"
    r"\s?" + _FRAC.format("m") + r"|\s{1,3}(?:and\s)?(?P<pn>[0-9]++)/(?P<pd>[0-9]++)(?![0-9.,/])"
    r"|\s?/\s?(?P<over>" + _CORE + r")(?!\s?/)|[eE](?P<exp>[-+]?[0-9]{1,6})(?![0-9A-Za-z])"
    r"|\s?[*x]\s?10\s?(?:\^|\*\*)\s?\{?(?P<pow>[-+]?[0-9]{1,6})\}?)?)"
)
_SCALE_WORDS = {"hundred": 100, "dozen": 12, "dozens": 12, **SCALES}
_SCALE_WORDS |= {f"{word}s": factor for word, factor in SCALES.items()}
_SCALE = re.compile(
    r"\s?(" + "|".join(sorted(_SCALE_WORDS, key=len, reverse=True)) + r")(?![A-Za-z])", re.I
)
_PERCENT = re.compile(r"\s?(?:%|(?:percent|per cent|percentage points?|pct)(?![A-Za-z]))", re.I)
_CHINESE_RUN = re.compile(rf"[负負]?(?:[0-9.,{CHINESE_NUMERALS}点點半]|分之)++")
_CHINESE_UNIT = re.compile(r"[十百千万萬亿億]")
_WORDS = re.compile(r"[A-Za-z]++(?:[\s-][A-Za-z]++){0,11}")
_WORD = re.compile(r"[A-Za-z]++")

_SINGLE_UNITS = "mgshlLJNWVKCF"
_NOT_UNITS = {"or", "and", "to", "plus", "minus", "times", "sqrt", "pi", "sin", "cos", "tan", "log", "ln", "exp", "mod", "if", "of"}  # fmt: skip
_UNIT = re.compile(
    r"[\s-]{0,3}(?:[A-Za-z]++'?\.?|[\u4e00-\u9fff]++|°[CF]?)"
    r"(?:\s{0,2}(?:[/*^²³()\u4e00-\u9fff]|[A-Za-z]++\.?|\^?\{?[23]\}?)){0,12}\s{0,3}"
)
_HEDGE = re.compile(
    r"(?:or|and|to|或者?|和|至|到|,|;|、|-|~)\s{0,3}[-+]?[$€£¥]?(?:[0-9]|\.[0-9])", re.I
)
_SECOND_QUANTITY = re.compile(
    r"(?:[A-Za-z]+|[\u4e00-\u9fff]{1,3})\s?(?:and\s|,\s)?[0-9][0-9.,]*\s?(?:[A-Za-z]|[\u4e00-\u9fff])"
)
_WORD_HEDGE = re.compile(r"(?:or|to|and)\s+([A-Za-z]++)", re.I)


@dataclass(frozen=True, slots=True)
class Value:
    """An exact number.

    Attributes:
        number: the value; of ``50%`` it is 50, for the sign is a unit.
        is_percent: whether a percent sign or word stood behind it.
    """

    number: Fraction
    is_percent: bool = False

    def __str__(self) -> str:
        return format_number(self.number)


def format_number(number: Fraction) -> str:
    """Shortest exact form: ``21``, ``0.5``, else ``1/3``."""
    rest, twos, fives = number.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest != 1 or places > 30:
        return f"{number.numerator}/{number.denominator}"
    digits = str(abs(number.numerator) * 10**places // number.denominator).rjust(places + 1, "0")
    sign = "-" if number < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def normalise(text: str) -> str:
    """One spelling for signs, digits, blanks and the LaTeX around numbers; the content is unchanged."""
    if not text.isascii():
        text = text.translate(_TRANSLATION)
    if "\\" in text or "{,}" in text:
        text = _LATEX_TEXT.sub(r" \1", text)
        for pattern, replacement in _LATEX_REPLACEMENTS:
            text = pattern.sub(replacement, text)
    return _THIN_GROUP.sub("", text) if "\u00a0" in text else text


def parse_value(text: str) -> Value | None:
    """The number that a text *is*: nothing may stand beside it but a sign, a currency and a unit."""
    if len(text) > MAX_REGION_CHARS:
        return None
    text = normalise(text).strip().strip("*_`\"' ").rstrip(".。,;").strip()
    if len(text) > 1 and text.startswith("$") and text.endswith("$"):
        text = text[1:-1].strip()
    text = text.removesuffix("$").strip()
    if _SPACED_GROUPS.fullmatch(text):
        text = text.replace(" ", "")
    found = _read(text)
    if found is None:
        return None
    value, end = found
    return value if _is_unit(text[end:]) else None


def leading_value(text: str) -> tuple[Value, str] | None:
    """The number that a normalised text *begins* with, and what follows it.

    None when the number is part of something larger (``5x``, ``3 + 4``, ``5 or 6``, ``5:30``, *one of*).
    """
    found = _read(text)
    if found is None or not _ends_cleanly(text[found[1] :]):
        return None
    return found[0], text[found[1] :]


def begins_with_value(text: str) -> bool:
    """Whether a normalised text begins with a number, be it part of something larger."""
    return _read(text) is not None


def numeral_at(text: str, at: int) -> tuple[Value | None, int]:
    """The number written in digits at a position of a normalised text, and where it ends.

    The value is None for digits that are no number (a zero denominator, a size beyond all sense).
    """
    match = _VALUE.match(text, at)
    if match is None:
        return None, at + 1
    found = _read_digits(text, match)
    return found or (None, match.end())


def _read(text: str) -> tuple[Value, int] | None:
    match = _VALUE.match(text)
    if match:
        return _read_digits(text, match)
    run = _CHINESE_RUN.match(text)
    if run:
        return _read_chinese(run.group())
    return _read_words(text)


def _read_digits(text: str, match: re.Match[str]) -> tuple[Value, int] | None:
    if _CHINESE_UNIT.match(text, match.end()) and match["core"]:
        run = _CHINESE_RUN.match(text, match.start("core"))
        number = chinese_number(run.group().replace(",", "")) if run else None
        if run is None or number is None:
            return None
        return Value(-number if "-" in (match["sign"], match["sign2"]) else number), run.end()
    number = _number(match)
    return None if number is None else _scaled(text, match.end(), number)


def _read_chinese(run: str) -> tuple[Value, int] | None:
    for percent in ("百分之", "负百分之"):
        if run.startswith(percent):
            number = chinese_number(run.removeprefix(percent))
            if number is None:
                return None
            return Value(-number if percent[0] == "负" else number, is_percent=True), len(run)
    number = chinese_number(run.rstrip(".,"))
    return None if number is None else (Value(number), len(run.rstrip(".,")))


def _read_words(text: str) -> tuple[Value, int] | None:
    run = _WORDS.match(text)
    if run is None:
        return None
    spans = [m.span() for m in _WORD.finditer(run.group())]
    found = english_number([run.group()[a:b].lower() for a, b in spans])
    if found is None:
        return None
    number, used = found
    end = spans[used - 1][1]
    percent = _PERCENT.match(text, end)
    return Value(number, is_percent=percent is not None), percent.end() if percent else end


def _scaled(text: str, end: int, number: Fraction) -> tuple[Value, int]:
    scale = _SCALE.match(text, end)
    if scale:
        number, end = number * _SCALE_WORDS[scale[1].lower()], scale.end()
    percent = _PERCENT.match(text, end)
    return Value(number, is_percent=percent is not None), percent.end() if percent else end


def _number(match: re.Match[str]) -> Fraction | None:
    """Exact value of a match; None for a zero denominator or a size that only a hostile text has."""
    if match.end() - match.start() > _MAX_DIGITS:
        return None
    group = match.groupdict()
    fraction = _quotient(group["fn"] or group["fsn"], group["fd"] or group["fsd"])
    if group["core"] is not None:
        fraction = _core_value(group)
    if fraction is None:
        return None
    return -fraction if "-" in (group["sign"], group["sign2"]) else fraction


def _core_value(group: dict[str, str | None]) -> Fraction | None:
    core = Fraction((group["core"] or "0").replace(",", ""))
    above = group["mn"] or group["msn"] or group["pn"]
    if above:
        part = _quotient(above, group["md"] or group["msd"] or group["pd"])
        return None if part is None else core + part
    if group["over"]:
        over = Fraction(group["over"].replace(",", ""))
        return core / over if over else None
    exponent = int(group["exp"] or group["pow"] or 0)
    return core * Fraction(10) ** exponent if abs(exponent) <= _MAX_EXPONENT else None


def _quotient(above: str | None, below: str | None) -> Fraction | None:
    if not above or not below or int(below) == 0:
        return None
    return Fraction(int(above), int(below))


def _is_unit(rest: str) -> bool:
    if not rest.strip():
        return True
    unit = _UNIT.fullmatch(rest)
    if unit is None:
        return False
    words = _WORD.findall(rest)
    if any(word.lower() in _NOT_UNITS for word in words) or any(
        c in rest for c in "或和至到加减乘除不"
    ):
        return False
    return not words or len(words[0]) > 1 or words[0] in _SINGLE_UNITS


def _ends_cleanly(rest: str) -> bool:
    stripped = rest.lstrip()
    if not stripped:
        return True
    word_hedge = _WORD_HEDGE.match(stripped)
    if _HEDGE.match(stripped) or stripped.lower().startswith("of "):
        return False
    if word_hedge and english_number([word_hedge[1].lower()]):
        return False
    if _SECOND_QUANTITY.match(stripped):  # 12 hours 30 minutes, 5元8角
        return False
    glued = len(stripped) == len(rest)
    if glued and stripped[0] == "." and stripped[1:2].isdigit():
        return False
    first, second = stripped[0], stripped[1:2]
    if first in "+*/^=<>\\{|&±" or (first == "(" and glued):
        return False
    if first in "-:":
        return not stripped[1:].lstrip()[:1].isdigit()
    if glued and first.isascii() and first.isalpha():
        return first in _SINGLE_UNITS or (second.isascii() and second.isalpha())
    return True
