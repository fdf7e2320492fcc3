"""How a recipe talks to a person: notes and progress bars on stderr, in English or Chinese.

Knows rich and the locale, and nothing of recipes; results are printed by the doors. ``SilentProgress`` is for
programs and tests. Called by the recipes and the doors.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")

# What a terminal obeys: control characters but tab and line end, and marks that turn the writing direction.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Progress(Protocol):
    """What a recipe tells while it works."""

    def say(self, text: str) -> None:
        """One line about what happens next or happened."""
        ...

    def track(self, label: str, items: Iterable[T], total: int) -> Iterator[T]:
        """Hand on ``items`` and show how many of ``total`` have passed."""
        ...


class SilentProgress:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def track(self, label: str, items: Iterable[T], total: int) -> Iterator[T]:
        """The items as they are."""
        yield from items


class TerminalProgress:
    """Lines and bars on stderr; into a file or pipe only lines."""

    def __init__(self) -> None:
        from rich.console import (
            Console,
        )  # a tenth of a second that programs without a terminal save

        self._console = Console(stderr=True, highlight=False, markup=False)

    def say(self, text: str) -> None:
        """Print a line; nothing in it is obeyed by the terminal."""
        self._console.print(harmless(text), soft_wrap=True)

    def track(self, label: str, items: Iterable[T], total: int) -> Iterator[T]:
        """A bar with count and remaining time; none where there is nothing to do."""
        if total == 0:
            yield from items
            return
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=self._console) as bars:
            task = bars.add_task(label, total=total)
            for item in items:
                yield item
                bars.advance(task)


def prefers_chinese() -> bool:
    """Whether ``EZTINKER_LANG``, else the locale variables, name Chinese."""
    for name in ("EZTINKER_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return value.lower().startswith("zh")
    return False


def pick(english: str, chinese: str) -> str:
    """The text in the language of the person at the terminal."""
    return chinese if prefers_chinese() else english


def harmless(text: str) -> str:
    """``text`` with everything that a terminal would obey shown as an escape."""
    return _OBEYED.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def print_out(text: str) -> None:
    """A line of results on stdout; characters that its encoding lacks become escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(harmless(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()
