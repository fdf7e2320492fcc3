"""The report of an evaluation: shares with intervals, rules and judge side by side, by type.

Pure: graded answers in, figures out. Intervals are Wilson's at 95 %, with one trial for each question (``pass_at_k``).
Called by stage 6.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from eztinker.rendering.finance import LARGEST_MARK, MARKS
from eztinker.rl.pass_at_k import mean_with_interval

Line = dict[str, Any]
RIGHT_FROM = 6.0
"""The judge's mark for accuracy from which it takes an answer for right, in the table beside the rules."""


def report_of(details: Sequence[Line], settings: dict[str, Any]) -> dict[str, Any]:
    """The report.

    Args:
        details: one line for each answer: ``id``, ``type``, ``is_formed``, ``form``, ``is_correct``, ``strategy``, and
            ``judge`` (``marks``, ``score``) where the judge was asked.
        settings: of the evaluation.
    """
    kinds = sorted({line["type"] for line in details})
    return {
        "arm": settings["arm"],
        "model": settings["model"],
        **figures(details),
        "by_type": {
            kind: figures([one for one in details if one["type"] == kind]) for kind in kinds
        },
        "settings": settings,
    }


def figures(details: Sequence[Line]) -> dict[str, Any]:
    """Figures of some answers.

    Returns:
        ``num_questions``, ``num_answers``; ``format_rate`` and ``accuracy`` with ``_ci95``; ``forms`` and ``strategies``
        (how often which); where the judge was asked ``judge``: mean ``score`` of 0 to 10 with ``ci95``, ``num_judged``,
        ``num_unreadable`` (in no mean), ``mean_marks``, and ``beside_rules``.
    """
    formed, right = _shares(details, "is_formed"), _shares(details, "is_correct")
    found: dict[str, Any] = {
        "num_questions": len(right),
        "num_answers": len(details),
        **_with_interval("format_rate", formed),
        **_with_interval("accuracy", right),
        "forms": dict(Counter(line["form"] for line in details).most_common()),
        "strategies": dict(Counter(line["strategy"] for line in details).most_common()),
    }
    if details and "judge" in details[0]:
        found["judge"] = _judged(details)
    return found


def _shares(details: Sequence[Line], key: str) -> list[float]:
    """For each question the share of its answers."""
    values: dict[str, list[float]] = {}
    for line in details:
        values.setdefault(line["id"], []).append(float(line[key]))
    return [fmean(one) for one in values.values()]


def _with_interval(name: str, shares: Sequence[float]) -> dict[str, Any]:
    mean, low, high = mean_with_interval(shares)
    return {name: mean, f"{name}_ci95": [low, high]}


def _judged(details: Sequence[Line]) -> dict[str, Any]:
    readable = [line for line in details if line["judge"]["score"] is not None]
    marked = [line["judge"]["marks"] for line in readable if line["judge"]["marks"]]
    found: dict[str, Any] = {
        "num_judged": sum(line["judge"]["marks"] != {} for line in details),
        "num_unreadable": len(details) - len(readable),
        "num_empty": len(readable) - len(marked),
        "score": None,
        "mean_marks": {name: fmean(one[name] for one in marked) for name in MARKS}
        if marked
        else {},
        "beside_rules": _beside_rules(details),
    }
    if readable:
        shares = [line["judge"]["score"] / LARGEST_MARK for line in readable]
        mean, low, high = mean_with_interval(shares)
        found |= {"score": mean * LARGEST_MARK, "ci95": [low * LARGEST_MARK, high * LARGEST_MARK]}
    return found


def _beside_rules(details: Sequence[Line]) -> dict[str, int]:
    """How often rules and judge agree that an answer is right."""
    counts = Counter(_pair(line) for line in details)
    return {
        name: counts[name] for name in ("both", "rules_only", "judge_only", "neither", "unreadable")
    }


def _pair(line: Line) -> str:
    marks = line["judge"]["marks"]
    if marks is None:
        return "unreadable"
    is_right = marks.get("accuracy", 0.0) >= RIGHT_FROM
    if line["is_correct"]:
        return "both" if is_right else "rules_only"
    return "judge_only" if is_right else "neither"
