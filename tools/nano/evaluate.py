"""Scores ``nano`` on held-out generated problems, greedy and sampled, with confidence intervals.

Uses the public data sets and their grading, so a score here is a score that a user sees. Called by
``build`` and ``simulate_demo``; run alone: ``python -m tools.nano.evaluate FOLDER``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from eztinker.dataset.generated import (
    GeneratedDataset,
    GeneratedFinanceDataset,
    GeneratedLegalDataset,
    GeneratedMathDataset,
)
from tools.nano.generation import STOPS, complete

SETS: tuple[type[GeneratedDataset], ...] = (
    GeneratedMathDataset,
    GeneratedFinanceDataset,
    GeneratedLegalDataset,
)
EVALUATION_SEED = 1000
MAX_NEW_TOKENS = 80


@dataclass(frozen=True)
class Score:
    """Accuracy on ``num_problems`` with its 95 % Wilson interval."""

    accuracy: float
    low: float
    high: float
    num_problems: int


def wilson(num_right: int, num_problems: int) -> Score:
    """Wilson score interval (Wilson 1927) at 95 %."""
    z = 1.96
    share = num_right / num_problems
    centre = share + z * z / (2 * num_problems)
    spread = share * (1 - share) / num_problems + z * z / (4 * num_problems**2)
    width = z * math.sqrt(spread)
    scale = 1 + z * z / num_problems
    return Score(share, (centre - width) / scale, (centre + width) / scale, num_problems)


def load(folder: Path) -> tuple[Any, Tokenizer]:
    """Return the model in fp32 and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def correct(
    model: Any, tokenizer: Tokenizer, rows: GeneratedDataset, temperature: float, seed: int = 0
) -> list[bool]:
    """Answer each row once and say which answers are right."""
    examples = [rows.get_example_question(index) for index in range(len(rows))]
    texts = complete(
        model,
        tokenizer,
        [prompt for _, prompt, _ in examples],
        temperature=temperature,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=seed,
    )
    return [
        rows.evaluate_answer(text, truth, question)["is_correct"]
        for text, (question, _, truth) in zip(texts, examples, strict=True)
    ]


def scores(folder: Path, num_problems: int = 500) -> dict[str, dict[str, Any]]:
    """Score the model in ``folder`` on each set: ``{set: {"greedy": …, "sampled": …}}``."""
    model, tokenizer = load(folder)
    table: dict[str, dict[str, Any]] = {}
    for dataset in SETS:
        rows = dataset("test", num_problems, seed=EVALUATION_SEED)
        greedy = correct(model, tokenizer, rows, 0.0)
        sampled = correct(model, tokenizer, rows, 1.0)
        table[dataset.name] = {
            "greedy": asdict(wilson(sum(greedy), len(rows))),
            "sampled": asdict(wilson(sum(sampled), len(rows))),
        }
    return table


def show_chat(folder: Path, questions: Sequence[str]) -> list[tuple[str, str]]:
    """Greedy answers to single user turns."""
    model, tokenizer = load(folder)
    prompts = [f"<|im_start|>user\n{text}{STOPS[1]}\n<|im_start|>assistant\n" for text in questions]
    return list(zip(questions, complete(model, tokenizer, prompts, temperature=0.0), strict=True))


if __name__ == "__main__":
    print(json.dumps(scores(Path(sys.argv[1])), indent=2))
