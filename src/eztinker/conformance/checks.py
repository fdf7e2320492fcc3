"""What a check is: a function that measures and expects (``expectations.py``), and the table that all are entered in.

Knows no protocol. Used by the ``*_checks.py`` files beside it and by ``runner.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eztinker.conformance.target import Target

Figures = dict[str, Any]
"""What a check has measured, by name; units stand in the names."""
CheckFunction = Callable[[Target], Figures | None]


@dataclass(frozen=True, slots=True)
class Check:
    """One statement about a server.

    Attributes:
        group: section of the protocol.
        name: the statement, in words.
    """

    group: str
    name: str
    function: CheckFunction


CHECKS: list[Check] = []


def check(group: str) -> Callable[[CheckFunction], CheckFunction]:
    """Enter a function into the table; its docstring is the statement that it checks."""

    def enter(function: CheckFunction) -> CheckFunction:
        statement = (function.__doc__ or "").strip().removesuffix(".")
        CHECKS.append(Check(group, statement, function))
        return function

    return enter
