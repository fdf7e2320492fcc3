"""What a check is: a function that measures and expects, and the table that all are entered in.

Knows no protocol. Used by the ``*_checks.py`` files beside it and by ``runner.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eztinker.conformance.target import Target

Figures = dict[str, Any]
"""What a check has measured, by name; units stand in the names."""
CheckFunction = Callable[["Target"], "Figures | None"]


class Mismatch(Exception):  # noqa: N818 - it is no error of ours but a finding
    """The server did something else than the protocol says."""


class NotOffered(Exception):  # noqa: N818
    """The server says itself that it does not offer this part."""


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


def expect(holds: bool, what: str, got: Any = "") -> None:
    """Go on if ``holds``.

    Raises:
        Mismatch: saying what was expected and what came.
    """
    if not holds:
        raise Mismatch(f"expected {what}" + (f", got {str(got)[:300]}" if got != "" else ""))


def expect_close(actual: float, expected: float, *, within: float, what: str) -> float:
    """Go on if two numbers differ by at most ``within``, relative to 1 or the larger one; their difference."""
    difference = abs(actual - expected) / max(1.0, abs(expected))
    expect(difference <= within, f"{what} {expected:.6g} (within {within:g})", f"{actual:.6g}")
    return difference
