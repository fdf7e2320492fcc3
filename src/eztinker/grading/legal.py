"""Legal verdicts: a charge and a term read from what a model wrote, compared with what the court said.

The form is ``{charge} | {months}``, ``{charge} | XT`` (life or death) or ``不违规``, on a line of its own, after a
think block if there is one. Two different verdicts in one answer count as none. Never raises on model output.
Knows no statute and no data file. Called by the data sets of cases and by the LawShift recipe.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from eztinker.errors import InvalidRequestError
from eztinker.grading.number_words import CHINESE_NUMERALS, chinese_number

XT = "XT"
"""Life imprisonment or death."""
NOT_GUILTY = "不违规"

Term = int | Literal["XT"]
"""Months, or ``XT``."""
LabelCode = Literal["V", "NV", "TU", "TD", "XT", "NX"]
"""What a change of law does to a folder's cases; see ``succeeds``."""
Split = Literal["original", "poisoned"]
Reason = Literal[
    "correct", "wrong_charge", "wrong_term", "wrong_charge_and_term", "wrongly_acquitted",
    "wrongly_convicted", "no_verdict", "two_verdicts", "unfinished_thinking",
]  # fmt: skip

MAX_MONTHS = 1200
_LIFE_CODES = (10000, 10001)
"""Data sets write life imprisonment and death as these."""
_MAX_READ_CHARS = 8000
_MAX_LINE_CHARS = 200

_LEAD = re.compile(r"^[^|:]{0,40}:")
_DECORATION = " \t*#>`\"'“”「」『』【】•。.;"
_NO_CHARGE = re.compile(r"(?:不违规|无|没有?|(?:不|未|没有?)(?:构?成立?)?(?:犯|任何犯)?)罪?")
_CHARGE_LEAD = re.compile(r"^(?:被告人)?(?:构成|犯(?!罪)|罪名(?:为|是)?)")
_LIFE = re.compile(r"(?:判处)?(?:xt|无期徒刑|无期|死刑)(?:,?缓期(?:二|两|2)年执行)?(?:\(.*\))?")
_EXEMPT = re.compile(r"(?:免予|免于|免除)刑事处罚|单处罚金")
_NUMBER = rf"(?:[0-9]+(?:\.[0-9]+)?|[{CHINESE_NUMERALS}]+)"
_SPAN = re.compile(
    rf"(?:判处)?(?:有期徒刑|拘役|管制)?(?:(?P<years>{_NUMBER}|半)年(?P<half>半)?)?(?:零|又)?"
    rf"(?:(?P<months>{_NUMBER})个?月)?(?:,?缓刑.*)?(?:\(.*\))?"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgment.

    Attributes:
        charges: names without 罪, in no order; empty: no offence.
        term: months or XT; None where there is no offence.
    """

    charges: frozenset[str]
    term: Term | None

    @property
    def is_guilty(self) -> bool:
        """Whether there is an offence."""
        return bool(self.charges)


ACQUITTAL = Verdict(frozenset(), None)


@dataclass(frozen=True, slots=True)
class LegalGrade:
    """How an answer compares with the court.

    Attributes:
        reason: ``correct``, or why it is not.
        verdict: what was read; None when there was nothing to read.
    """

    reason: Reason
    verdict: Verdict | None

    @property
    def is_correct(self) -> bool:
        """Charge and term are right."""
        return self.reason == "correct"


# Reading ------------------------------------------------------------------------------------------


def read_verdict(text: str) -> Verdict | Reason:
    """The verdict of an answer, or why there is none (``no_verdict``, ``two_verdicts``, ``unfinished_thinking``)."""
    answer = str(text).rpartition("</think>")[2]
    if "<think>" in answer:
        return "unfinished_thinking"
    answer = unicodedata.normalize("NFKC", answer[-_MAX_READ_CHARS:])
    found = {verdict for line in answer.splitlines() if (verdict := _read_line(line)) is not None}
    if len(found) == 1:
        return found.pop()
    return "two_verdicts" if found else "no_verdict"


def _read_line(line: str) -> Verdict | None:
    line = line.strip()[:_MAX_LINE_CHARS].lstrip("-").strip(_DECORATION)
    if _without_lead(line) == NOT_GUILTY:
        return ACQUITTAL
    charge, bar, term_text = line.partition("|")
    term = read_term(_without_lead(term_text)) if bar else None
    charges = read_charges(_without_lead(charge)) if term is not None else frozenset()
    return Verdict(charges, term) if charges and term is not None else None


def _without_lead(text: str) -> str:
    """``判决结果: 盗窃罪`` -> ``盗窃罪``."""
    return _LEAD.sub("", text).strip(_DECORATION)


def read_charges(text: str) -> frozenset[str]:
    """Names of charges without 罪: ``盗窃罪、诈骗罪`` -> {盗窃, 诈骗}; empty where any of them says that there is none."""
    plain = re.sub(r"\s+", "", unicodedata.normalize("NFKC", text))
    plain = _CHARGE_LEAD.sub("", plain)
    parts = re.split(r"[、,;]", plain)
    if any(_NO_CHARGE.fullmatch(part) for part in parts):
        return frozenset()
    return frozenset(name for part in parts if (name := part.removesuffix("罪")))


def read_term(text: str) -> Term | None:
    """Months or XT from ``36``, ``36个月``, ``三年六个月``, ``一年半``, ``无期徒刑``, …; None if it is no term."""
    plain = re.sub(r"\s+", "", unicodedata.normalize("NFKC", text)).lower()
    plain = plain.strip(_DECORATION)
    if _LIFE.fullmatch(plain):
        return XT
    if _EXEMPT.fullmatch(plain):
        return 0
    if plain.isascii() and plain.isdigit():
        return _bounded(Fraction(int(plain[:9])))
    span = _SPAN.fullmatch(plain)
    if span is None or not (span["years"] or span["months"]):
        return None
    if span["years"] == "半" and span["half"]:
        return None
    years, months = _number(span["years"]), _number(span["months"])
    if years is None or months is None:
        return None
    return _bounded(12 * (years + (Fraction(1, 2) if span["half"] else 0)) + months)


def _number(text: str | None) -> Fraction | None:
    """What is not written is 0; what cannot be read is None."""
    if text is None:
        return Fraction(0)
    return Fraction(text) if text[0].isascii() else chinese_number(text)


def _bounded(months: Fraction) -> Term | None:
    if months in _LIFE_CODES:
        return XT
    return int(months) if months.denominator == 1 and 0 <= months <= MAX_MONTHS else None


def read_prison_time(value: object) -> Term:
    """The court's term as data files write it: months, a text of them, 10000 or 10001, XT, 无期, 死刑.

    Raises:
        InvalidRequestError: it is none of these (``field="prison_time"``).
    """
    term = None
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        term = read_term(str(value))
    if term is None:
        raise InvalidRequestError(
            f"prison_time: expected months, 'XT', '无期' or '死刑', got {value!r}.",
            field="prison_time",
        )
    return term


# Comparing ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TermRule:
    """When two terms count as equal.

    Attributes:
        tolerance_months: the largest difference; 0 is exact. XT equals only XT.
        bands_months: upper ends of bands, ascending: terms in one band are equal ((36, 120): up to 36, up to
            120, above). Empty: no bands.
    """

    tolerance_months: int = 0
    bands_months: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.tolerance_months < 0 or list(self.bands_months) != sorted(set(self.bands_months)):
            raise InvalidRequestError(
                "Expected a tolerance of at least 0 and bands in ascending order, got "
                f"{self.tolerance_months} and {list(self.bands_months)}.",
                field="bands" if self.bands_months else "tolerance",
            )
        if self.tolerance_months and self.bands_months:
            raise InvalidRequestError(
                "tolerance and bands are two rules for the same thing. Give one of them.",
                field="bands",
            )

    def are_equal(self, one: Term | None, other: Term | None) -> bool:
        """Whether the terms count as equal."""
        if not isinstance(one, int) or not isinstance(other, int):
            return one == other
        if self.bands_months:
            return self._band(one) == self._band(other)
        return abs(one - other) <= self.tolerance_months

    def _band(self, months: int) -> int:
        return sum(months > end for end in self.bands_months)


EXACT = TermRule()


def grade_verdict(text: str, truth: Verdict, rule: TermRule = EXACT) -> LegalGrade:
    """Compare an answer with the court's verdict."""
    verdict = read_verdict(text)
    if not isinstance(verdict, Verdict):
        return LegalGrade(verdict, None)
    return LegalGrade(_difference(verdict, truth, rule), verdict)


def _difference(verdict: Verdict, truth: Verdict, rule: TermRule) -> Reason:
    if verdict.is_guilty != truth.is_guilty:
        return "wrongly_convicted" if verdict.is_guilty else "wrongly_acquitted"
    is_charge_right = verdict.charges == truth.charges
    is_term_right = rule.are_equal(verdict.term, truth.term)
    if is_charge_right and is_term_right:
        return "correct"
    if is_charge_right:
        return "wrong_term"
    return "wrong_charge" if is_term_right else "wrong_charge_and_term"


def succeeds(label: LabelCode, split: Split, verdict: Verdict | None) -> bool:
    """LawShift's rule: whether a verdict follows the law that stood in the prompt.

    Args:
        label: what the change of law does: V nothing (still guilty), NV acquits, TU raises the term, TD lowers
            it, XT makes it life or death, NX takes life and death away.
        split: which law stood in the prompt.
        verdict: the answer; None, which cannot be read, never succeeds.
    """
    if verdict is None:
        return False
    if label == "NV" and split == "poisoned":
        return not verdict.is_guilty
    if not verdict.is_guilty:
        return False
    if label in ("V", "NV"):
        return True
    wants_life = label == ("NX" if split == "original" else "XT")
    if wants_life or verdict.term == XT:
        return wants_life and verdict.term == XT
    return _within(_TERMS_POISONED[label] if split == "poisoned" else _TERMS_ORIGINAL, verdict.term)


_TERMS_ORIGINAL = (36, 120)
_TERMS_POISONED: dict[str, Sequence[int]] = {
    "TU": (120, MAX_MONTHS),
    "TD": (0, 36),
    "NX": (36, MAX_MONTHS),
}
"""First and last month that succeed."""


def _within(bounds: Sequence[int], term: Term | None) -> bool:
    return isinstance(term, int) and bounds[0] <= term <= bounds[1]
