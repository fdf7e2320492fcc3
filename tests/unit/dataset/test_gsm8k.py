"""GSM8K rows, prompts and grading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eztinker.dataset.base import Dataset, get_dataset
from eztinker.dataset.gsm8k import GSM8KDataset
from eztinker.errors import InvalidRequestError

REAL = Path(__file__).parents[4] / "shared/data/gsm8k"
ROWS = [
    {"question": "What is 400 + 600?", "answer": "400 + 600 = <<400+600=1000>>1000\n#### 1,000"},
    {"question": "What is 2 - 5?", "answer": "#### -3"},
    {"question": "Half of one?", "answer": "0.50"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, rows in (("train", ROWS), ("test", ROWS[:1])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(text)
    return tmp_path


def test_rows_and_prompts(folder: Path) -> None:
    dataset = GSM8KDataset(data_path=folder)
    assert isinstance(dataset, Dataset)
    assert len(dataset) == 3
    question, prompt, ground_truth = dataset.get_example_question(0)
    assert question == "What is 400 + 600?"
    assert prompt == f"Question: {question}\nAnswer:"
    assert ground_truth == "1000"
    assert [row["ground_truth"] for row in dataset] == ["1000", "-3", "0.5"]
    assert dataset[-1]["question"] == "Half of one?"
    with pytest.raises(IndexError):
        dataset[3]


def test_a_row_handed_out_is_a_copy(folder: Path) -> None:
    dataset = GSM8KDataset(data_path=folder)
    dataset[0]["ground_truth"] = "5"
    assert dataset[0]["ground_truth"] == "1000"


def test_splits_and_first_rows(folder: Path) -> None:
    assert len(GSM8KDataset("test", data_path=folder)) == 1
    assert len(GSM8KDataset("train", max_samples=2, data_path=folder)) == 2
    assert len(GSM8KDataset("train", max_samples=99, data_path=folder)) == 3
    assert len(get_dataset("gsm8k", split="test", data_path=folder / "train.jsonl")) == 3


def test_grading(folder: Path) -> None:
    dataset = GSM8KDataset(data_path=folder, use_math_verify=False)
    question, prompt, truth = dataset.get_example_question(0)
    result = dataset.evaluate_answer(prompt + " 400 + 600 = 1,000.\n#### 1,000", truth, question)
    assert result["is_correct"]
    assert set(result) >= {
        "score",
        "is_correct",
        "confidence",
        "strategy",
        "pred_answer",
        "ground_truth",
    }
    assert not dataset.evaluate_answer(prompt, truth, question)["is_correct"]
    assert dataset.evaluate_answer("\\boxed{x}", "x+0")["math_verify"] == "off"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"split": "validation"}, "split"),
        ({"max_samples": -1}, "max_samples"),
        ({"max_samples": 0}, "max_samples"),
        ({"max_samples": True}, "max_samples"),
        ({"max_samples": 2.5}, "max_samples"),
    ],
)
def test_arguments_are_refused_by_name(folder: Path, arguments: dict, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        GSM8KDataset(data_path=folder, **arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "row",
    [
        '{"question": "q"}',
        '{"question": "", "answer": "#### 1"}',
        '{"question": 3, "answer": "#### 1"}',
        '{"question": "q", "answer": "no number here"}',
        '{"question": "q", "answer": "#### "}',
        '{"question": "q", "answer": ',
        "[1, 2]",
    ],
)
def test_broken_rows_are_told_with_file_and_line(tmp_path: Path, row: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + row + "\n")
    with pytest.raises(InvalidRequestError) as caught:
        GSM8KDataset(data_path=path)
    assert caught.value.message.startswith(f"{path}:2: ")
    assert len(GSM8KDataset(data_path=path, max_samples=1)) == 1


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("\n")
    with pytest.raises(InvalidRequestError, match="no rows"):
        GSM8KDataset(data_path=tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize(("split", "size"), [("train", 7473), ("test", 1319)])
def test_every_real_solution_is_right_and_every_echo_is_no_answer(split: str, size: int) -> None:
    if not REAL.is_dir():
        pytest.skip("the shared data are not beside this checkout")
    dataset = GSM8KDataset(split, data_path=REAL)
    assert len(dataset) == size
    for i, row in enumerate(dataset):
        question, prompt, truth = dataset.get_example_question(i)
        solved = dataset.evaluate_answer(f"{prompt} {row['answer']}", truth, question)
        assert solved["is_correct"], (row, solved)
        assert solved["strategy"] == "hash_mark"
        assert dataset.evaluate_answer(prompt, truth, question)["strategy"] == "no_answer"
