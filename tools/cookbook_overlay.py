"""The folder from which recipes of the official cookbook run without a hub.

Recipes look models and data sets up by public names, relative to the working directory first. Here
those names lead to nano and to data that this repository generates: sums with their solutions, once
as questions and answers, once as conversations, once as pairs of a right and a wrong answer. Called
by ``cookbook.py``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from eztinker.dataset.generated.sets import GeneratedMathDataset

NANO = Path(__file__).parent.parent / "src" / "eztinker" / "assets" / "nano"
MODEL = "Qwen/Qwen3-8B"
"""A public name with a chat format that nano has; the cookbook knows which renderer belongs to it."""
CONVERSATIONS = "conversations.jsonl"
NUM_TRAIN, NUM_TEST = 300, 16


def build_overlay(folder: Path) -> None:
    """Fill a folder with what the recipes look up by name."""
    model = folder / MODEL
    model.mkdir(parents=True, exist_ok=True)
    for file in NANO.iterdir():
        link = model / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file)
    problems = GeneratedMathDataset(split="train", max_samples=NUM_TRAIN)
    rows = [problems[index] for index in range(len(problems))]
    questions = [{"question": row["question"], "answer": row["answer"]} for row in rows]
    chats = [{"messages": _chat(row["question"], row["answer"])} for row in rows]
    _write_dataset(folder / "openai" / "gsm8k", "main", questions)
    _write_dataset(folder / "HuggingFaceH4" / "no_robots", "default", chats)
    _write_dataset(folder / "Anthropic" / "hh-rlhf", "default", _comparisons(rows))
    _write_dataset(folder / "zwhe99" / "DeepMath-103K", "default", questions)
    _write_dataset(folder / "allenai" / "tulu-3-sft-mixture", "default", chats)
    (folder / CONVERSATIONS).write_text(_lines(chats), encoding="utf-8")


def _chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]


def _comparisons(rows: Sequence[dict]) -> list[dict[str, str]]:
    """Each question with its own solution, and with that of the next question."""
    turns = [f"\n\nHuman: {row['question']}\n\nAssistant:{row['answer']}" for row in rows]
    wrong = [
        f"\n\nHuman: {row['question']}\n\nAssistant:{other['answer']}"
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]
    return [{"chosen": a, "rejected": b} for a, b in zip(turns, wrong, strict=True)]


def _write_dataset(folder: Path, config: str, rows: Sequence[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": rows, "test": rows[:NUM_TEST]}
    for split, part in splits.items():
        (folder / f"{split}.jsonl").write_text(_lines(part), encoding="utf-8")
    files = [f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits]
    header = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{''.join(files)}---\n"
    (folder / "README.md").write_text(header, encoding="utf-8")


def _lines(rows: Sequence[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
