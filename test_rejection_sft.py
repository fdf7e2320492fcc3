"""Manual check of rejection sampling without a server: problems, grading, selection, buffer.

    python test_rejection_sft.py

This is no pytest file; those are below tests/.
"""

import sys
import tempfile
from pathlib import Path

from eztinker import load_buffer, save_buffer
from eztinker.dataset.generated import GeneratedMathDataset
from eztinker.errors import InvalidRequestError
from eztinker.recipes.terminal import print_out
from eztinker.recipes.troubleshooting import run_door
from eztinker.rl.buffer import FIELDS
from eztinker.rl.candidates import examples_of
from eztinker.rl.rejection_sampler import buffer_row, select_best


def main() -> None:
    """Every part that needs no model, one after another."""
    dataset = GeneratedMathDataset("train", 3)
    check("problems are loaded", len(dataset) == 3)
    example = examples_of(dataset)[0]
    check("the prompt holds the question", example.question in example.prompt)

    right, wrong = f" Step by step.\n#### {example.ground_truth}", "\n#### 987654"
    graded = dataset.evaluate_answer(right, example.ground_truth, example.question)
    check("a right answer is graded as correct", graded["is_correct"])
    graded = dataset.evaluate_answer(wrong, example.ground_truth, example.question)
    check("a wrong answer is graded as wrong", not graded["is_correct"])

    best = select_best(
        [wrong, "I do not know.", right], example.ground_truth, example.question, dataset
    )
    check("the correct candidate is selected", best.index == 2 and best.is_correct)
    check("the correct candidates are counted", best.num_correct == 1)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rejection_buffer.jsonl"
        rows = [buffer_row(example, best, temperature=0.8)]
        save_buffer(rows, path)
        check("the buffer reads back as it was saved", load_buffer(path) == rows)
        check("a row has every documented field", set(FIELDS) <= set(rows[0]))


def check(what: str, is_so: bool) -> None:
    """Say what was checked, or end with it."""
    if not is_so:
        raise InvalidRequestError(f"Check failed: {what}.")
    print_out(f"ok: {what}")


if __name__ == "__main__":
    sys.exit(run_door(main))
