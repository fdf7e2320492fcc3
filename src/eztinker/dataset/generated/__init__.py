"""Problems made on the spot: word problems, finance questions, legal judgments, from a seed.

Standard library only; no file and no network is needed. The data sets are in ``sets``.
"""

from eztinker.dataset.generated.problem import Problem, split_of
from eztinker.dataset.generated.sets import (
    GeneratedDataset,
    GeneratedFinanceDataset,
    GeneratedLegalDataset,
    GeneratedMathDataset,
)

__all__ = [
    "GeneratedDataset",
    "GeneratedFinanceDataset",
    "GeneratedLegalDataset",
    "GeneratedMathDataset",
    "Problem",
    "split_of",
]
