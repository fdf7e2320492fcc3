"""MATH: competition problems whose answer stands in a box (Hendrycks et al., 2021, arXiv:2103.03874).

A row: ``{"problem": "…", "solution": "… \\boxed{\\frac{1}{2}} …", "level": "Level 3", "type": "Algebra"}``. Rows of
this one set; everything else is in ``worked_problems.py``.
"""

from __future__ import annotations

from eztinker.dataset.base import register_dataset
from eztinker.dataset.rows import Row
from eztinker.dataset.source import HubDataset
from eztinker.dataset.worked_problems import WorkedProblems, text_field
from eztinker.errors import InvalidRequestError
from eztinker.grading.math import read_truth

_BOXES = ("\\boxed", "\\fbox")
_ROW = '{"problem": "…", "solution": "… \\\\boxed{7}"}'


def last_box(solution: str) -> str | None:
    """Content of the last ``\\boxed{…}``, braces balanced; None when there is none that closes."""
    start = max(solution.rfind(box) for box in _BOXES)
    if start < 0:
        return None
    brace = solution.find("{", start)
    if brace < 0:
        return None
    depth = 0
    for at in range(brace, len(solution)):
        depth += (solution[at] == "{") - (solution[at] == "}")
        if depth == 0:
            return solution[brace + 1 : at].strip()
    return None


@register_dataset("math")
class MATHDataset(WorkedProblems):
    """Competition problems with boxed answers; arguments as of ``WorkedProblems``.

    The hub's configuration is ``algebra``. Rows also have ``type`` and ``level``.
    """

    _NAME = "math"
    _HUB = HubDataset("EleutherAI/hendrycks_math", config="algebra")

    @staticmethod
    def _example(row: Row) -> dict[str, str]:
        problem, solution = (text_field(row, name, _ROW) for name in ("problem", "solution"))
        answer = last_box(solution)
        if not answer or read_truth(answer) is None:
            raise InvalidRequestError(
                f"{row.where}: the solution must have its answer in \\boxed{{…}}, got {solution[-60:]!r}.",
                field="solution",
            )
        return {
            "question": problem,
            "answer": solution,
            "ground_truth": answer,
            "type": str(row.data.get("type", "")),
            "level": str(row.data.get("level", "")),
        }
