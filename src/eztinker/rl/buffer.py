"""The rejection buffer: one JSON line for each example, with the best of its candidates.

Reads, writes and appends rows; a row is on disk before the next is sampled, so that an interrupted run continues.
It samples and grades nothing. Called by ``rejection_sampler.py`` and the recipe; users read the file as it is.

A row::

    {"example_id": 0, "question": "…", "ground_truth": "72", "prompt": "Question: …", "best_response": " 48 + 24 …",
     "best_score": 1.0, "is_correct": true, "confidence": 0.95, "trained": false, "temperature": 0.8,
     "num_correct": 3, "num_candidates": 4, "best_tokens": [220, 19, …]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.rl.durable import write_text

Row = dict[str, Any]

FIELDS = (
    "example_id",
    "question",
    "ground_truth",
    "prompt",
    "best_response",
    "best_score",
    "is_correct",
    "confidence",
    "trained",
    "temperature",
)
"""What every row has. The sampler adds ``num_correct``, ``num_candidates`` and ``best_tokens``."""


def save_buffer(buffer: Sequence[Row], buffer_path: str | Path) -> None:
    """Write all rows; the file is replaced in one moment."""
    write_text(buffer_path, "".join(map(_line, buffer)))


def load_buffer(buffer_path: str | Path) -> list[Row]:
    """Read all rows. A last line that was torn by a crash is left out.

    Raises:
        NotFoundError: no such file.
        InvalidRequestError: a line that is no row, with its number.
    """
    path = Path(buffer_path)
    if not path.is_file():
        raise NotFoundError(
            f"No buffer at {path}: fill one with populate_buffer(…).",
            code="buffer_not_found",
            field="buffer_path",
        )
    text = path.read_text(encoding="utf-8", errors="replace")
    # Only a line with its line end was written whole.
    return [_row(path, i, line) for i, line in enumerate(text.split("\n")[:-1], start=1) if line]


def append_rows(rows: Iterable[Row], buffer_path: str | Path) -> None:
    """Append rows as they come, each on disk before the next is asked for."""
    path = Path(buffer_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        _drop_torn_line(file)
        for row in rows:
            file.write(_line(row).encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())


def _drop_torn_line(file: Any) -> None:
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _row(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidRequestError(
            f"{path}:{number}: broken JSON ({error.msg}). Delete the line, or start afresh with --reset-buffer.",
            field="buffer_path",
        ) from error
    missing = [name for name in FIELDS if not isinstance(row, dict) or name not in row]
    if missing:
        raise InvalidRequestError(
            f"{path}:{number}: expected a buffer row, but {', '.join(missing)} is missing. Choose another file.",
            field="buffer_path",
        )
    return row
