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


def lose_train_lines(folder: Path, after: int) -> list[dict[str, Any]]:
    """As a program leaves a folder that died after its run took some steps and before it wrote their lines."""
    import json

    path = folder / "metrics.jsonl"
    held = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lost = [one for one in held if one["kind"] == "train" and one["step"] > after]
    kept = [one for one in held if one not in lost]
    path.write_text("".join(json.dumps(one) + "\n" for one in kept), encoding="utf-8")
    return lost


def same_lines(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    """Whether measurements are equal but for their times."""
    both = [
        [{k: v for k, v in one.items() if k not in ("kind", "time_s")} for one in side]
        for side in (found, wanted)
    ]
    return len(found) == len(wanted) and all(
        one == pytest.approx(other, rel=1e-3, abs=1e-5, nan_ok=True)
        for one, other in zip(*both, strict=True)
    )


__all__ = [
    "InterruptingProgress",
    "Interruption",
    "lines",
    "long_form",
    "lose_train_lines",
    "same_lines",
]
