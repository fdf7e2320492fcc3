"""Finance questions from elsewhere in the pipeline's raw shape: files of your own, DianJin-R1-Data.

Layouts of a row, seen from its keys::

    {"question": "…", "gold_answer": "800"}            also with id, type, source; "answer" for "gold_answer"
    {"question": "…", "choices": {"A": "…"}, "answer": "A"}   options become lines of the question
    {"instruction": "…", "input": "", "output": "<think>…</think><answer>…</answer>"}   DianJin-R1-Data

Rows without a question or a readable answer are left out and counted. Called by stage 1.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eztinker.dataset.finance import QUESTION_TYPES, RawRow, normalised_question
from eztinker.dataset.finance_types import question_type
from eztinker.dataset.modelscope import ModelScopeDataset, fetch_file
from eztinker.dataset.rows import SUFFIXES, Row, read_rows
from eztinker.dataset.source import HubDataset, find_source
from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.grading.answers import extract_answer
from eztinker.grading.finance import answer_region

DIANJIN = "dianjin-r1-data"
DIANJIN_FILES = ("cflue_mcq", "cflue_oe", "fin_qa")
DIANJIN_HUB = HubDataset("DianJin/DianJin-R1-Data", "train")
DIANJIN_MODELSCOPE = ModelScopeDataset("tongyi_dianjin/DianJin-R1-Data", "train")
LAYOUTS = (
    '{"question", "gold_answer"} (or "answer", with or without "choices"), or {"instruction", "output"} with '
    "<answer>…</answer> or \\boxed{…} in the output"
)
MOST_ANSWER_CHARS = 2000


@dataclass
class Questions:
    """Questions that were read.

    Attributes:
        rows: in order, no question twice, no id twice.
        left_out: why rows were left out -> how many.
        first_left_out: reason -> the first place it happened at.
    """

    rows: list[RawRow] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    first_left_out: dict[str, str] = field(default_factory=dict)

    def leave_out(self, reason: str, where: str) -> None:
        """Count a row that is not taken."""
        self.left_out[reason] += 1
        self.first_left_out.setdefault(reason, where)


def read_questions(paths: Iterable[Path], source: str) -> Questions:
    """The questions of files.

    Args:
        paths: JSON lines, JSON arrays, parquet; a folder stands for all of these in it.
        source: of rows that name none; also begins the ids of rows that have none.

    Raises:
        NotFoundError: no such file, or a folder without any.
        InvalidRequestError: broken JSON, or not one row can be used (the message names the layouts).
    """
    found = Questions()
    ids: set[str] = set()
    questions: set[str] = set()
    for path in (file for given in paths for file in _files(given)):
        for row in read_rows(path):
            reason = _take(row, source, found.rows, ids, questions)
            if reason:
                found.leave_out(reason, row.where)
    if not found.rows:
        told = "; ".join(f"{reason} (first at {at})" for reason, at in found.first_left_out.items())
        raise InvalidRequestError(
            f"No row of {source} can be used: {told or 'there is no row'}. Expected {LAYOUTS}.",
            code="empty_dataset",
            field="local_data",
        )
    return found


def find_dianjin() -> list[Path]:
    """The files of DianJin-R1-Data: ``EZTINKER_DATA_DIR/dianjin-r1-data``, hub cache, ModelScope, hub.

    Raises:
        NotFoundError: nowhere (``code="questions_not_found"``); the message names every place and the way out.
    """
    tried: list[str] = []
    local = _search(tried, DIANJIN_HUB, is_cache_only=True)
    if local:
        return local
    fetched = _from_modelscope(tried)
    if fetched:
        return fetched
    hub = _search(tried, DIANJIN_HUB, is_cache_only=False)
    if hub:
        return hub
    places = "".join(f"\n  - {line}" for line in dict.fromkeys(tried))
    raise NotFoundError(
        f"DianJin-R1-Data was not found. Tried:{places}\nGive questions of your own with --local_data FILE (or "
        f"DATA_CONFIG.local_path): {LAYOUTS}.",
        code="questions_not_found",
        field="local_data",
        details={"tried": tried},
    )


def _from_modelscope(tried: list[str]) -> list[Path]:
    """All files, or none as soon as one cannot be had."""
    paths: list[Path] = []
    for name in DIANJIN_FILES:
        path = fetch_file(DIANJIN_MODELSCOPE, f"{name}.json", tried)
        if path is None:
            return []
        paths.append(path)
    return paths


def _search(tried: list[str], hub: HubDataset, *, is_cache_only: bool) -> list[Path]:
    """All files from one place, or none."""
    paths: list[Path] = []
    for name in DIANJIN_FILES:
        try:
            paths += find_source(DIANJIN, name, hub=hub, is_cache_only=is_cache_only).paths
        except NotFoundError as error:
            tried += error.details.get("tried", [])
            return []
    return paths


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(p for p in path.glob("*") if p.suffix in SUFFIXES) if path.is_dir() else []
    if not files:
        raise NotFoundError(
            f"No questions at {path}. Give a file ({', '.join(SUFFIXES)}) or a folder with some.",
            code="file_not_found",
            field="local_data",
        )
    return files


def _take(
    row: Row, source: str, rows: list[RawRow], ids: set[str], questions: set[str]
) -> str | None:
    """Add a row; why not, if it is not added."""
    question, gold = _question(row.data), _gold(row.data)
    if not question:
        return "no question"
    if not gold:
        return "no readable answer"
    if len(gold) > MOST_ANSWER_CHARS:
        return f"answer of more than {MOST_ANSWER_CHARS} characters"
    key = normalised_question(question)
    if key in questions:
        return "question given before"
    questions.add(key)
    named = row.data.get("type")
    kind = named if named in QUESTION_TYPES else question_type(question, gold)
    origin = _text(row.data.get("source")) or source
    identity = _text(row.data.get("id"))
    if not identity or identity in ids:
        identity = f"{source.partition('-')[0]}_{len(rows)}"
    while identity in ids:
        identity += "x"
    ids.add(identity)
    rows.append(RawRow(identity, question, gold, kind, origin))
    return None


def _question(data: Mapping[str, Any]) -> str:
    parts = (
        [data.get("question")]
        if data.get("question")
        else [data.get("instruction"), data.get("input")]
    )
    lines = [_text(part) for part in parts if _text(part)]
    options = _choices(data)
    if options and lines and "\nA" not in lines[0]:
        lines += [f"{letter}. {text}" for letter, text in options.items()]
    return "\n".join(lines)


def _choices(data: Mapping[str, Any]) -> dict[str, str]:
    """Options given beside a question, as an object, a list, or either as JSON text."""
    given = data.get("choices", data.get("options"))
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {}
    if isinstance(given, list):
        given = dict(zip("ABCDEFGH", given, strict=False))
    return {str(k): _text(v) for k, v in given.items()} if isinstance(given, dict) else {}


def _gold(data: Mapping[str, Any]) -> str:
    gold = _text(data.get("gold_answer")) or _text(data.get("answer"))
    options = _choices(data)
    if gold:
        return options.get(gold, gold)
    output = _text(data.get("output"))
    if not output:
        return ""
    region = (answer_region(output) or "").strip()
    if "\\boxed" in region or "<answer>" not in output:
        found = extract_answer(region)
        boxed = region.rpartition("\\boxed{")[2].partition("}")[0].strip()
        return boxed if "\\boxed{" in region else found.text if found else ""
    return region


def _text(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value) if math.isfinite(value) else ""  # NaN is how tables write nothing
    return value.strip() if isinstance(value, str) else ""
