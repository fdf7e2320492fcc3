"""Held-out rows of a data set that comes as one file, without a test split of its own.

Cuts by position, so that no row stands on both sides. Called by the doors whose ``--data-path`` names a file.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from eztinker.errors import InvalidRequestError

LARGEST_SHARE = 5
"""At most one row in so many is held out, however many were asked for."""


class Part:
    """Consecutive rows of a data set, behind the same methods.

    Args:
        dataset: the whole.
        start: its first row here.
        stop: the row after the last one.
    """

    def __init__(self, dataset: Any, start: int, stop: int) -> None:
        self._dataset = dataset
        self._rows = range(start, stop)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row ``index`` of this part."""
        return self._dataset[self._rows[index]]

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        """``(question, prompt, ground_truth)`` of a row of this part."""
        return self._dataset.get_example_question(self._rows[index])

    def evaluate_answer(
        self, generated_text: str, ground_truth: str, question: str = ""
    ) -> dict[str, Any]:
        """As the whole grades."""
        return self._dataset.evaluate_answer(generated_text, ground_truth, question)


def hold_out(dataset: Any, max_samples: int, eval_size: int) -> tuple[Part, Part]:
    """The first rows to train on and the last rows to evaluate on.

    Args:
        dataset: at least two rows.
        max_samples: most rows to train on.
        eval_size: most rows to hold out; never more than a fifth of the data set (but at least one).

    Raises:
        InvalidRequestError: fewer than two rows.
    """
    size = len(dataset)
    if size < 2:
        raise InvalidRequestError(
            f"Expected at least two rows, one to train on and one to evaluate on, got {size}.",
            field="data_path",
        )
    num_held_out = min(eval_size, max(1, size // LARGEST_SHARE))
    boundary = size - num_held_out
    return Part(dataset, 0, min(max_samples, boundary)), Part(dataset, boundary, size)


def split_records(records: Sequence[Any], share: float, seed: int) -> tuple[list[Any], list[Any]]:
    """Some rows to train on and some to hold out, chosen by the seed, both in their order; each at least one."""
    if len(records) < 2:
        return list(records), []
    num_held_out = min(len(records) - 1, max(1, round(share * len(records))))
    chosen = set(random.Random(seed).sample(range(len(records)), num_held_out))  # noqa: S311
    train = [record for i, record in enumerate(records) if i not in chosen]
    return train, [record for i, record in enumerate(records) if i in chosen]
