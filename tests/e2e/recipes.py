"""What the tests of recipes share: an interruption at a chosen moment, and data that nano can learn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

long_form = pytest.mark.skipif(
    "RECIPES" not in os.environ, reason="the long form, which make recipes runs"
)


class Interruption(KeyboardInterrupt):
    """Ctrl-C at a chosen moment."""


class InterruptingProgress:
    """Interrupts after so many items of the bars whose label begins with a word."""

    def __init__(self, label: str, after: int) -> None:
        self.label, self.left = label, after
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def track(self, label: str, items: Iterable[Any], total: int) -> Iterator[Any]:
        for item in items:
            yield item
            if label.startswith(self.label):
                self.left -= 1
                if self.left <= 0:
                    raise Interruption


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Measurements of a folder."""
    import json

    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]


__all__ = ["InterruptingProgress", "Interruption", "lines", "long_form"]
