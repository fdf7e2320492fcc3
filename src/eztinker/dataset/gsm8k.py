"""GSM8K: grade-school word problems whose answer is one number (Cobbe et al., 2021, arXiv:2110.14168).

A row: ``{"question": "…", "answer": "… #### 42"}``. Rows of this one set; everything else is in
``worked_problems.py``. Users and recipes make it directly or through the registry.
"""

from __future__ import annotations

from eztinker.dataset.base import register_dataset
from eztinker.dataset.rows import Row
from eztinker.dataset.source import HubDataset
from eztinker.dataset.worked_problems import WorkedProblems, text_field
from eztinker.errors import InvalidRequestError
from eztinker.grading.math import read_truth

_ROW = '{"question": "…", "answer": "… #### 42"}'


@register_dataset("gsm8k")
class GSM8KDataset(WorkedProblems):
    """GSM8K questions (train 7,473, test 1,319) with their final numbers; arguments as of ``WorkedProblems``.

    The ground truth is the final number without separators.
    """

    _NAME = "gsm8k"
    _HUB = HubDataset("openai/gsm8k", config="main")

    @staticmethod
    def _example(row: Row) -> dict[str, str]:
        question, answer = (text_field(row, name, _ROW) for name in ("question", "answer"))
        truth = read_truth(answer)
        if truth is None or truth.value is None:
            raise InvalidRequestError(
                f"{row.where}: the answer must end in '#### NUMBER' or be a number, got {answer[-60:]!r}.",
                field="answer",
            )
        return {"question": question, "answer": answer, "ground_truth": str(truth.value)}
