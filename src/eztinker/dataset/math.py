"""MATH: competition problems whose answer stands in a box (Hendrycks et al., 2021, arXiv:2103.03874).

A row: ``{"problem": "…", "solution": "… \\boxed{\\frac{1}{2}} …", "level": "Level 3", "type": "Algebra"}``. Rows,
prompts and grading of this one set; answers are compared by ``grading/math.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from eztinker.dataset.base import check_max_samples, register_dataset
from eztinker.dataset.rows import Row, read_rows
from eztinker.dataset.source import HubDataset, find_source
from eztinker.errors import InvalidRequestError
from eztinker.grading.math import grade_math, read_truth

_HUB = HubDataset("EleutherAI/hendrycks_math", config="algebra")
_SPLITS = ("train", "test")
_BOXES = ("\\boxed", "\\fbox")


def last_box(solution: str) -> str | None:
    """Content of the last ``\\boxed{…}``, braces balanced; None when there is none that closes."""
    start = max(solution.rfind(box) for box in _BOXES)
    if start < 0:
        return None
    brace = solution.find("{", start)
    if brace < 0:
        return None
    depth = 0
    for at in range(brace, len(solution)):
        depth += (solution[at] == "{") - (solution[at] == "}")
        if depth == 0:
            return solution[brace + 1 : at].strip()
    return None


@register_dataset("math")
class MATHDataset:
    """Competition problems with boxed answers.

    Args:
        split: ``train`` or ``test``.
        max_samples: use the first rows only; None means all.
        use_math_verify: let math-verify compare expressions.
        data_path: a file, or a folder with ``<split>.jsonl``. Without it: ``EZTINKER_DATA_DIR/math/``, the hub (its
            configuration ``algebra``).

    Raises:
        NotFoundError: no data anywhere (``code="dataset_not_found"``).
        InvalidRequestError: an unknown split, or a row without a readable answer, with file and line.
    """

    def __init__(
        self,
        split: str = "train",
        max_samples: int | None = None,
        use_math_verify: bool = True,
        data_path: str | Path | None = None,
    ) -> None:
        if split not in _SPLITS:
            raise InvalidRequestError(f"split must be train or test, got {split!r}.", field="split")
        check_max_samples(max_samples)
        self.use_math_verify = use_math_verify
        source = find_source("math", split, data_path=data_path, hub=_HUB)
        rows = (row for path in source.paths for row in read_rows(path))
        self._rows = [_example(row) for row in islice(rows, max_samples)]
        if not self._rows:
            raise InvalidRequestError(f"{source.paths[0]} holds no rows.", code="empty_dataset")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row ``index`` as ``question``, ``answer``, ``ground_truth``, ``type``, ``level``."""
        return dict(self._rows[index])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(row) for row in self._rows)

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        """``(problem, prompt, boxed answer)``."""
        row = self._rows[index]
        return row["question"], f"Question: {row['question']}\nAnswer:", row["ground_truth"]

    def evaluate_answer(
        self, generated_text: str, ground_truth: str, question: str = ""
    ) -> dict[str, Any]:
        """Grade a model output; see ``grade_math`` for the keys."""
        return grade_math(
            generated_text, ground_truth, question, use_math_verify=self.use_math_verify
        ).as_dict()


def _example(row: Row) -> dict[str, str]:
    for name in ("problem", "solution"):
        value = row.data.get(name)
        if not isinstance(value, str) or not value.strip():
            raise InvalidRequestError(
                f"{row.where}: expected a non-empty text under {name!r}, got {str(value)[:60]!r}.",
                field=name,
            )
    answer = last_box(row.data["solution"])
    if not answer or read_truth(answer) is None:
        raise InvalidRequestError(
            f"{row.where}: the solution must have its answer in \\boxed{{…}}, got "
            f"{row.data['solution'][-60:]!r}.",
            field="solution",
        )
    return {
        "question": row.data["problem"],
        "answer": row.data["solution"],
        "ground_truth": answer,
        "type": str(row.data.get("type", "")),
        "level": str(row.data.get("level", "")),
    }
