"""A plan: what a recipe would do, before it does it (``--dry-run``).

Plain figures, the first batch as text, and a rough estimate of the memory that the adapter needs on the server.
Made by the recipes, printed by the command line; nothing is created or trained for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SHOWN_EXAMPLES = 2


@dataclass(frozen=True)
class Plan:
    """What would happen.

    Attributes:
        recipe: its name.
        facts: figures by name: examples, steps, tokens, learning rate at start, peak and end, …
        first_batch: the first examples rendered; what carries loss stands between ``⟦`` and ``⟧``.
        notes: what a person should know (rows left out, keys without a server to check them, …).
        settings: every key as resolved.
    """

    recipe: str
    facts: dict[str, Any]
    first_batch: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def length_facts(lengths: Sequence[int]) -> dict[str, Any]:
    """Tokens in all, and the shortest, middle and longest sequence."""
    ordered = sorted(lengths)
    return {
        "tokens": sum(ordered),
        "tokens_shortest": ordered[0],
        "tokens_median": ordered[len(ordered) // 2],
        "tokens_longest": ordered[-1],
    }
