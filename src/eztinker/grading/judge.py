"""Verdicts of a judge: the mark in a text that a language model wrote, or nothing.

A judge may write nonsense; then there is no mark, and whoever asked counts it. Never raises on text. Called by the
scorers and by pipelines with a judge.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_TEXT_CHARS = 20_000
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_MARK = re.compile(
    rf"(?:score|rating|mark|grade|得分|评分|分数|总分)\s*(?:is|of|为|是)?\s*[:：=]?\s*[*_]*\s*{_NUMBER}(?:\s*/\s*{_NUMBER})?",
    re.I,
)
_ALONE = re.compile(rf"\s*[*_]*{_NUMBER}[*_]*\s*(?:/\s*{_NUMBER}|分)?\s*\.?\s*")


def read_verdict(text: Any, largest: float) -> float | None:
    """The mark in a verdict, 0 to ``largest``; None when there is none, two that differ, or one out of range.

    Args:
        text: what the judge wrote; reasoning before ``</think>`` is not read.
        largest: the best mark. A mark out of another number (``4/5``) is scaled to it.
    """
    if not isinstance(text, str):
        return None
    spoken = text[-MAX_TEXT_CHARS:].rpartition("</think>")[2]
    whole = _ALONE.fullmatch(spoken)
    found = [whole] if whole else list(_MARK.finditer(spoken))
    marks = {_scaled(match[1], match[2], largest) for match in found}
    if len(marks) != 1:
        return None
    (mark,) = marks
    return mark if mark is not None and 0 <= mark <= largest else None


def _scaled(mark: str, best: str | None, largest: float) -> float | None:
    if best is None:
        return float(mark)
    return None if float(best) <= 0 else float(mark) * largest / float(best)


def read_marks(text: Any, names: tuple[str, ...], largest: float) -> dict[str, float] | None:
    """Several marks of one verdict by name, from a JSON object in it; None when one is missing or out of range."""
    found = _object_in(text)
    marks: dict[str, float] = {}
    for name in names:
        mark = None if found is None else found.get(name)
        if isinstance(mark, bool) or not isinstance(mark, (int, float)) or not 0 <= mark <= largest:
            return None
        marks[name] = float(mark)
    return marks


def read_reason(text: Any, name: str = "reason") -> str:
    """What a verdict's JSON object says under a name; empty when it says nothing."""
    found = (_object_in(text) or {}).get(name)
    return found.strip() if isinstance(found, str) else ""


def _object_in(text: Any) -> dict[str, Any] | None:
    """The JSON object in a text, reasoning before ``</think>`` aside."""
    if not isinstance(text, str):
        return None
    spoken = text[-MAX_TEXT_CHARS:].rpartition("</think>")[2]
    start, end = spoken.find("{"), spoken.rfind("}")
    try:
        found = json.loads(spoken[start : end + 1])
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
