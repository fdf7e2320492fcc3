"""Finance questions and what the pipeline makes of them: one record type for each documented file.

::

    raw.jsonl        {"id": "dianjin_0", "question": "…", "gold_answer": "800", "type": "financial_calculation",
                      "source": "dianjin-r1-data"}
    distilled.jsonl  {"id", "question", "gold_answer", "type", "teacher_output": "<think>…</think>\\n<answer>…"}
    sft.jsonl        {"id", "prompt", "response", "type"}
    rl.jsonl, test.jsonl  {"id", "prompt", "gold_answer", "type"}

Reads these files and checks every row. Where foreign questions come from is the affair of ``finance_sources.py``.
Called by the finance recipe.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from eztinker.dataset.rows import Row, read_rows
from eztinker.errors import InvalidRequestError, NotFoundError

QuestionType = Literal["financial_calculation", "concept_qa", "business_reasoning", "risk_analysis"]
QUESTION_TYPES: tuple[QuestionType, ...] = get_args(QuestionType)


@dataclass(frozen=True, slots=True)
class RawRow:
    """A question with its right answer, stage 1."""

    id: str
    question: str
    gold_answer: str
    type: str
    source: str


@dataclass(frozen=True, slots=True)
class DistilledRow:
    """A question with what the teacher wrote, stage 2."""

    id: str
    question: str
    gold_answer: str
    type: str
    teacher_output: str


@dataclass(frozen=True, slots=True)
class SFTRow:
    """A question with the response to learn, stage 3."""

    id: str
    prompt: str
    response: str
    type: str


@dataclass(frozen=True, slots=True)
class RLRow:
    """A question whose answers are rewarded or tested, stage 3; ``rl.jsonl`` and ``test.jsonl``."""

    id: str
    prompt: str
    gold_answer: str
    type: str


Record = TypeVar("Record", RawRow, DistilledRow, SFTRow, RLRow)


def read_records(path: Path, record: type[Record], *, made_by: str) -> list[Record]:
    """All rows of a file of the pipeline; fields beyond the documented ones are not kept.

    Args:
        made_by: which stage writes the file, for the message when it is not there.

    Raises:
        NotFoundError: no such file (``code="stage_missing"``).
        InvalidRequestError: broken JSON, a field that is missing or empty, an unknown type, an id given twice, no row at
            all; the message has file and line.
    """
    if not path.is_file():
        raise NotFoundError(
            f"No {path}. Run {made_by} first.", code="stage_missing", field="stages"
        )
    rows: list[Record] = []
    seen: set[str] = set()
    for row in read_rows(path):
        made = record(**{f.name: _text(row, f.name) for f in fields(record)})
        if made.id in seen:
            raise InvalidRequestError(
                f"{row.where}: the id {made.id!r} is given twice.", field="id"
            )
        seen.add(made.id)
        rows.append(made)
    if not rows:
        raise InvalidRequestError(
            f"{path} holds no row. Run {made_by} again.", code="empty_dataset", field="stages"
        )
    return rows


def _text(row: Row, name: str) -> str:
    value = row.data.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequestError(
            f"{row.where}: expected {name!r} as a text that is not empty, got {value!r}.",
            field=name,
        )
    if name == "type" and value not in QUESTION_TYPES:
        raise InvalidRequestError(
            f"{row.where}: expected a type of {', '.join(QUESTION_TYPES)}, got {value!r}.",
            field=name,
        )
    return value


def as_jsonl(records: Iterable[Any]) -> str:
    """Records as the text of a JSON lines file."""
    return "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in records)


def normalised_question(question: str) -> str:
    """A question without case, width, blanks and punctuation: equal for two that differ in nothing else."""
    plain = unicodedata.normalize("NFKC", question).casefold()
    return re.sub(r"[^\w%.+\-*/×÷^<>=]|_", "", plain).rstrip(".")
