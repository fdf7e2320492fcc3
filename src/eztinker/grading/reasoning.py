"""Checks of written reasoning that need no model: long enough, not endless, not going round, and leading to its answer.

Pure text. Called by the filter.
"""

from __future__ import annotations

import re
from collections import Counter

from eztinker.grading.amounts import Amount, AskedUnit, amount_at, equal_amounts, read_amount
from eztinker.grading.numbers import normalise

MOST_REPEATS = 3
"""A sentence that stands more often than this goes round in circles."""
LEAST_SENTENCE_CHARS = 8
_SENTENCE = re.compile(r"[^。！？!?\n]+")
_NUMBER = re.compile(r"(?<![\d.,])[-+]?\d[\d,]*(?:\.\d+)?")


def reasoning_fault(
    reasoning: str, answer: str, *, min_chars: int, max_chars: int, asked: AskedUnit | None = None
) -> str | None:
    """The first fault of a reasoning, or None.

    Args:
        reasoning: between the think tags.
        answer: between the answer tags; one that is a number must appear in the reasoning, in any unit.
        min_chars: shorter is no reasoning.
        max_chars: longer rambles.
        asked: in which unit a bare number is.

    Returns:
        ``reasoning_too_short``, ``reasoning_too_long``, ``reasoning_repeats``, ``answer_not_in_reasoning``, or None.
    """
    if len(reasoning) < min_chars:
        return "reasoning_too_short"
    if len(reasoning) > max_chars:
        return "reasoning_too_long"
    sentences = [one.strip() for one in _SENTENCE.findall(reasoning)]
    counts = Counter(one for one in sentences if len(one) >= LEAST_SENTENCE_CHARS)
    if counts and max(counts.values()) > MOST_REPEATS:
        return "reasoning_repeats"
    return None if _leads_to(reasoning, answer, asked) else "answer_not_in_reasoning"


def _leads_to(reasoning: str, answer: str, asked: AskedUnit | None) -> bool:
    wanted = read_amount(answer)
    if wanted is None:
        return True
    if answer.strip() in reasoning:
        return True
    plain = normalise(reasoning)
    found = (amount_at(plain, match.start()) for match in _NUMBER.finditer(plain))
    return any(one is not None and _same(one[0], wanted, asked) for one in found)


def _same(one: Amount, wanted: Amount, asked: AskedUnit | None) -> bool:
    return equal_amounts(one, wanted, asked) or equal_amounts(wanted, one, asked)
