"""GSM8K: grade-school word problems whose answer is one number (Cobbe et al., 2021, arXiv:2110.14168).

Rows, prompts and grading of this one set. Where files lie is known to ``source.py``, how answers are compared
to ``grading/math.py``. Users and recipes make it directly or through the registry.
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

_HUB = HubDataset("openai/gsm8k", config="main")
_SPLITS = ("train", "test")


@register_dataset("gsm8k")
class GSM8KDataset:
    """GSM8K questions with their final answers.

    Args:
        split: ``train`` (7,473 questions) or ``test`` (1,319).
        max_samples: use the first rows only; None means all.
        use_math_verify: let math-verify compare what the built-in rules cannot read.
        data_path: a JSONL file with ``question`` and ``answer``, or a folder with ``train.jsonl`` and
            ``test.jsonl``. Without it: ``EZTINKER_DATA_DIR/gsm8k/``, the hub cache, the hub.

    Attributes:
        origin: where the rows came from: ``data_path``, ``data_dir``, ``hub_cache`` or ``hub``.

    Raises:
        NotFoundError: no data anywhere (``code="dataset_not_found"``), within seconds.
        InvalidRequestError: an unknown split, ``max_samples`` below 1, or a broken row (with file and line).
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
        self.split = split
        self.use_math_verify = use_math_verify
        source = find_source("gsm8k", split, data_path=data_path, hub=_HUB)
        self.origin = source.origin
        rows = (row for path in source.paths for row in read_rows(path))
        self._examples = [_example(row) for row in islice(rows, max_samples)]
        if not self._examples:
            raise InvalidRequestError(
                f"{source.paths[0]} holds no rows; expected one JSON object with question and answer per line.",
                field="data_path",
            )

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row ``index`` as ``question``, ``answer`` (the worked solution), ``ground_truth``."""
        return dict(self._examples[index])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(example) for example in self._examples)

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        """``(question, prompt, ground_truth)``; the ground truth is the final number without separators."""
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


def _example(row: Row) -> dict[str, str]:
    for name in ("question", "answer"):
        value = row.data.get(name)
        if not isinstance(value, str) or not value.strip():
            raise InvalidRequestError(
                f"{row.where}: expected a non-empty text under {name!r}, got {value!r}. A row looks like "
                '{"question": "…", "answer": "… #### 42"}.',
                field=name,
            )
    truth = read_truth(row.data["answer"])
    if truth is None or truth.value is None:
        raise InvalidRequestError(
            f"{row.where}: the answer must end in '#### NUMBER' or be a number, got {row.data['answer'][-60:]!r}.",
            field="answer",
        )
    return {
        "question": row.data["question"],
        "answer": row.data["answer"],
        "ground_truth": str(truth.value),
    }
