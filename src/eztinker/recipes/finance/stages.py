"""Which of the eight stages to run: a text such as ``1-3,6`` as numbers in order.

Pure. Called by the recipe.
"""

from __future__ import annotations

import re

from eztinker.errors import InvalidRequestError

STAGES = {
    1: "prepare",
    2: "distil",
    3: "filter",
    4: "sft",
    5: "grpo",
    6: "evaluate",
    7: "deploy",
    8: "ablation",
}
"""Number -> name of a stage."""
_PART = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")


def read_stages(text: str) -> list[int]:
    """The numbers that a text names, ascending, each once.

    Raises:
        InvalidRequestError: it is no list of numbers and ranges from 1 to 8, or names nothing.
    """
    numbers: set[int] = set()
    for part in str(text).split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise _unreadable(text)
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or first not in STAGES or last not in STAGES:
            raise _unreadable(text)
        numbers |= set(range(first, last + 1))
    return sorted(numbers)


def _unreadable(text: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"stages: expected numbers and ranges from 1 to {max(STAGES)} such as 1-8 or 1-3,6, got {text!r}.",
        field="stages",
    )
