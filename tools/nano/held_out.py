"""Checks that no held-out question is in the corpus; the split promises it, this looks.

Called by ``build`` before the card is written.
"""

from __future__ import annotations

from collections.abc import Iterable

from eztinker.dataset.generated import GeneratedDataset
from tools.nano.documents import Document


def find_leaks(documents: Iterable[Document], held_out: Iterable[GeneratedDataset]) -> list[str]:
    """Return the held-out questions that are a line (or its end) of some prompt."""
    questions = {row["question"] for rows in held_out for row in rows}
    found = set()
    for document in documents:
        for line in document.prompt.splitlines():
            pieces = {line, line.removesuffix("<|im_end|>")}
            pieces |= {piece.removeprefix("Question: ") for piece in pieces}
            pieces |= {piece.removeprefix("案情：") for piece in pieces}
            found |= pieces & questions
    return sorted(found)
