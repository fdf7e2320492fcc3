"""AQuA: algebra questions with five options and a rationale (Ling et al., 2017, arXiv:1705.04146).

A row: ``{"question": "…", "options": ["A)32400", …], "rationale": "…", "correct": "A"}``. Rows, prompts and grading of
this one set; how an option is recognised is known to ``grading/options.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from eztinker.dataset.base import check_max_samples, register_dataset
from eztinker.dataset.rows import read_rows
from eztinker.dataset.source import HubDataset, find_source
from eztinker.errors import InvalidRequestError
from eztinker.grading.options import grade_option

_HUB = HubDataset("deepmind/aqua_rat", config="raw")
_SPLITS = ("train", "dev", "validation", "test")
_OPTION = re.compile(r"\s*\(?([A-H])\s*[).:：]\s*(.*)", re.S)


def options_of(data: Mapping[str, Any]) -> dict[str, str]:
    """Letter -> text of a row's options.

    Raises:
        InvalidRequestError: the options cannot be read.
    """
    options = data.get("options")
    found = [_OPTION.fullmatch(str(option)) for option in options or ()]
    if not isinstance(options, list) or not found or not all(found):
        raise InvalidRequestError(
            f'options must be a list such as ["A)12", "B)15"], got {str(options)[:80]}'
        )
    return {match[1]: match[2].strip() for match in found if match}


def check_aqua(data: Mapping[str, Any]) -> None:
    """Refuse a row whose question, options or right answer cannot be read."""
    for name in ("question", "rationale"):
        if not isinstance(data.get(name), str) or not data[name].strip():
            raise InvalidRequestError(f"{name} must be a text that is not empty")
    options = options_of(data)
    if data.get("correct") not in options:
        raise InvalidRequestError(
            f"correct must be one of {', '.join(options)}, got {data.get('correct')!r}"
        )


def aqua_question(data: Mapping[str, Any]) -> str:
    """The question with its options, one a line."""
    lines = [f"{letter}) {text}" for letter, text in options_of(data).items()]
    return "\n".join([data["question"].strip(), "Options:", *lines])


@register_dataset("aqua")
class AQuADataset:
    """Multiple-choice questions; the ground truth is a letter.

    Args:
        split: ``train``, ``dev`` (or ``validation``) or ``test``.
        max_samples: use the first rows only; None means all.
        data_path: a file, or a folder with ``<split>.json``. Without it: ``EZTINKER_DATA_DIR/aqua/``, the hub.

    Raises:
        NotFoundError: no data anywhere (``code="dataset_not_found"``).
        InvalidRequestError: an unknown split, or a row that cannot be read, with file and line.
    """

    def __init__(
        self,
        split: str = "train",
        max_samples: int | None = None,
        data_path: str | Path | None = None,
    ) -> None:
        if split not in _SPLITS:
            raise InvalidRequestError(
                f"split must be one of {', '.join(_SPLITS)}, got {split!r}.", field="split"
            )
        check_max_samples(max_samples)
        source = find_source("aqua", split, data_path=data_path, hub=_HUB)
        self._rows: list[dict[str, Any]] = []
        for row in islice((r for path in source.paths for r in read_rows(path)), max_samples):
            try:
                check_aqua(row.data)
            except InvalidRequestError as error:
                raise InvalidRequestError(
                    f"{row.where}: {error.message}.", field="data_path"
                ) from error
            self._rows.append(row.data)
        if not self._rows:
            raise InvalidRequestError(f"{source.paths[0]} holds no rows.", code="empty_dataset")
        self._options = {aqua_question(row): options_of(row) for row in self._rows}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row ``index`` as ``question`` (with options), ``answer`` (worked), ``ground_truth``, ``options``."""
        row = self._rows[index]
        return {
            "question": aqua_question(row),
            "answer": f"{row['rationale'].strip()}\n#### {row['correct']}",
            "ground_truth": row["correct"],
            "options": options_of(row),
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        """``(question with options, prompt, right letter)``."""
        question = aqua_question(self._rows[index])
        return question, f"Question: {question}\nAnswer:", self._rows[index]["correct"]

    def evaluate_answer(
        self, generated_text: str, ground_truth: str, question: str = ""
    ) -> dict[str, Any]:
        """Grade a model output; ``question`` says which options there are."""
        options = self._options.get(question) or dict.fromkeys("ABCDE", "")
        text = generated_text
        if question and isinstance(text, str):
            text = text.rpartition(question)[2]
        return grade_option(text, ground_truth, options).as_dict()
