"""Problems with a worked solution and one final answer: what GSM8K and MATH have in common.

Splits, prompts and grading. What a row of either looks like is known to ``gsm8k.py`` and ``math.py``; where files
lie to ``source.py``; how answers are compared to ``grading/math.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from eztinker.dataset.base import check_max_samples
from eztinker.dataset.rows import Row, read_rows
from eztinker.dataset.source import HubDataset, find_source
from eztinker.errors import InvalidRequestError
from eztinker.grading.math import grade_math

_SPLITS = ("train", "test")


class WorkedProblems(ABC):
    """Base of such data sets.

    Args:
        split: ``train`` or ``test``.
        max_samples: use the first rows only; None means all.
        use_math_verify: let math-verify compare what the built-in rules cannot read.
        data_path: a JSONL file, or a folder with ``train.jsonl`` and ``test.jsonl``. Without it:
            ``EZTINKER_DATA_DIR/NAME/``, the hub cache, the hub.

    Attributes:
        origin: where the rows came from: ``data_path``, ``data_dir``, ``hub_cache`` or ``hub``.

    Raises:
        NotFoundError: no data anywhere (``code="dataset_not_found"``), within seconds.
        InvalidRequestError: an unknown split, ``max_samples`` below 1, no rows (``code="empty_dataset"``), or a
            broken row, with file and line.
    """

    _NAME: ClassVar[str]
    _HUB: ClassVar[HubDataset]

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
        self.split = split
        self.use_math_verify = use_math_verify
        source = find_source(self._NAME, split, data_path=data_path, hub=self._HUB)
        self.origin = source.origin
        rows = (row for path in source.paths for row in read_rows(path))
        self._examples = [self._example(row) for row in islice(rows, max_samples)]
        if not self._examples:
            raise InvalidRequestError(
                f"{source.paths[0]} holds no rows; expected one JSON object per line.",
                code="empty_dataset",
                field="data_path",
            )

    @staticmethod
    @abstractmethod
    def _example(row: Row) -> dict[str, str]:
        """A row's ``question``, ``answer``, ``ground_truth`` and whatever else it has."""

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row ``index``: at least ``question``, ``answer`` (the worked solution), ``ground_truth``."""
        return dict(self._examples[index])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(example) for example in self._examples)

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        """``(question, prompt, ground_truth)``."""
        example = self._examples[index]
        question = example["question"]
        return question, f"Question: {question}\nAnswer:", example["ground_truth"]

    def evaluate_answer(
        self, generated_text: str, ground_truth: str, question: str = ""
    ) -> dict[str, Any]:
        """Grade a model output, with or without the prompt in front; see ``grade_math`` for the keys."""
        grade = grade_math(
            generated_text, ground_truth, question, use_math_verify=self.use_math_verify
        )
        return grade.as_dict()


def text_field(row: Row, name: str, example: str) -> str:
    """A text that a row must have.

    Args:
        row: as read.
        name: of the field.
        example: of a whole row, for the error.

    Raises:
        InvalidRequestError: it is missing, empty or no text.
    """
    value = row.data.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequestError(
            f"{row.where}: expected a non-empty text under {name!r}, got {str(value)[:60]!r}. A row looks "
            f"like {example}.",
            field=name,
        )
    return value
