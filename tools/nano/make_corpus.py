"""Writes the pretraining corpus of ``nano`` as JSONL, one document a line, from a seed.

The corpus is an intermediate file (some 40 MB) and is never committed. Called by ``build``; what is
in a document is decided in ``documents``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.nano.documents import Document, draw_mixed, draw_skilled, draw_sum

CORPUS_SEED = 20_250
STAGES: dict[str, tuple[Callable[[random.Random], Document], int]] = {
    "sums": (draw_sum, 40_000),
    "skill": (draw_skilled, 130_000),
    "habit": (draw_mixed, 36_000),
}


def write_stage(path: Path, stage: str, num_documents: int | None = None) -> None:
    """Write the documents of a stage of ``STAGES``; the bytes depend on the arguments alone."""
    draw, usual = STAGES[stage]
    rng = random.Random(f"{CORPUS_SEED}/{stage}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as corpus:
        for _ in range(usual if num_documents is None else num_documents):
            document = draw(rng)
            row = {"prompt": document.prompt, "completion": document.completion}
            corpus.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_corpus(path: Path) -> Iterator[Document]:
    """Yield the documents in the order in which they were written."""
    with path.open(encoding="utf-8") as corpus:
        for line in corpus:
            yield Document(**json.loads(line))
