"""What is expected of a server, and what a check finds instead.

Knows no protocol. Used by ``target.py``, by the ``*_checks.py`` files and by ``runner.py``.
"""

from __future__ import annotations

from typing import Any


class Mismatch(Exception):  # noqa: N818 - it is no error of ours but a finding
    """The server did something else than the protocol says."""


class NotOffered(Exception):  # noqa: N818
    """The server says itself that it does not offer this part."""


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
