"""Formats told from fields, bad rows listed, and real files where they lie beside the checkout."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from eztinker.dataset.aqua import AQuADataset
from eztinker.dataset.inspection import histogram, inspect_file, render_masked
from eztinker.dataset.math import MATHDataset, last_box
from eztinker.dataset.preference import PreferencePair
from eztinker.dataset.records import ChatExample, TextExample, read_records
from eztinker.dataset.supervision import supervise
from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.rendering.tokenizer import Tokenizer

SHARED = Path(__file__).parents[4] / "shared" / "data"
NANO = Path(__file__).parents[3] / "src" / "eztinker" / "assets" / "nano"
HI = {"role": "user", "content": "Hi"}
YES = {"role": "assistant", "content": "Yes."}
NO = {"role": "assistant", "content": "No."}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(NANO)


def written(tmp_path: Path, *rows: Any, name: str = "data.jsonl") -> Path:
    path = tmp_path / name
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


ROWS: list[tuple[str, dict[str, Any], Any]] = [
    ("messages", {"messages": [HI, YES]}, ChatExample([HI, YES])),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes."}]},
     ChatExample([HI, YES])),
    ("alpaca", {"instruction": "Hi", "input": "", "output": "Yes."}, ChatExample([HI, YES])),
    ("alpaca", {"instruction": "Add", "input": "1 1", "output": "2", "system": "Sum.", "history": [["a", "b"]]},
     ChatExample([{"role": "system", "content": "Sum."}, {"role": "user", "content": "a"},
                  {"role": "assistant", "content": "b"}, {"role": "user", "content": "Add\n1 1"},
                  {"role": "assistant", "content": "2"}])),
    ("gsm8k", {"question": "1+1?", "answer": "2\n#### 2"}, TextExample("Question: 1+1?\nAnswer:", " 2\n#### 2")),
    ("question_answer", {"question": "1+1?", "answer": "2"}, TextExample("Question: 1+1?\nAnswer:", " 2")),
    ("finance", {"question": "1+1?", "gold_answer": "2", "type": "x"}, TextExample("Question: 1+1?\nAnswer:", " 2")),
    ("finance", {"question": "q", "gold_answer": "2", "teacher_output": "t"}, TextExample("Question: q\nAnswer:", " t")),
    ("math", {"problem": "P", "solution": "\\boxed{2}"}, TextExample("Question: P\nAnswer:", " \\boxed{2}")),
    ("aqua", {"question": "Q", "options": ["A)1", "B)2"], "rationale": "Two.", "correct": "B"},
     TextExample("Question: Q\nOptions:\nA) 1\nB) 2\nAnswer:", " Two.\n#### B")),
    ("prompt_completion", {"prompt": "Once", "completion": " upon"}, TextExample("Once", " upon")),
    ("prompt_completion", {"prompt": [HI], "completion": [YES]}, ChatExample([HI, YES])),
    ("text", {"text": "Once upon"}, TextExample("", "Once upon")),
    ("preference", {"prompt": "Hi", "chosen": "Yes.", "rejected": "No."}, PreferencePair([HI], "Yes.", "No.")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "expected"), ROWS)
def test_the_format_is_told_from_the_fields(tmp_path: Path, name: str, row: Any, expected: Any):
    (record,) = read_records(written(tmp_path, row)).records
    assert (record.format, record.example) == (name, expected)


def test_files_may_be_mixed_and_bad_rows_are_listed_with_their_line(tmp_path: Path):
    path = written(
        tmp_path, ROWS[0][1], "{broken", ROWS[2][1], {"other": 1}, "[1]", {"instruction": "x", "output": " "}
    )  # fmt: skip
    found = read_records(path)
    assert found.formats == {"messages": 1, "alpaca": 1}
    assert [bad.where for bad in found.bad] == [f"{path}:{line}" for line in (2, 4, 5, 6)]
    assert "broken JSON" in found.bad[0].reason
    assert "other" in found.bad[1].reason
    assert "4 left out" in found.summary()
    with pytest.raises(InvalidRequestError, match=rf"{path}:2: broken JSON"):
        read_records(path, strict=True)


def test_a_named_format_is_asked_of_every_row(tmp_path: Path):
    path = written(tmp_path, ROWS[4][1], ROWS[8][1])
    found = read_records(path, format="question_answer")
    assert found.formats == {"question_answer": 1}
    assert len(found.bad) == 1
    with pytest.raises(InvalidRequestError, match="Unknown data format 'alpacca'"):
        read_records(path, format="alpacca")


def test_nothing_to_use_is_an_error_that_shows_the_first_reason(tmp_path: Path):
    with pytest.raises(InvalidRequestError, match="no record that can be used"):
        read_records(written(tmp_path, {"a": 1}))
    with pytest.raises(InvalidRequestError, match="no record that can be used"):
        read_records(written(tmp_path))
    with pytest.raises(NotFoundError, match="No data file"):
        read_records(tmp_path / "nowhere.jsonl")
    damaged = tmp_path / "x.jsonl.gz"
    damaged.write_bytes(b"no gzip")
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        read_records(damaged)


def test_tools_become_turns_that_a_template_can_show(tmp_path: Path):
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "weather"}'},
            {"from": "observation", "value": "sun"},
            {"from": "gpt", "value": "Sunny."},
        ],
        "tools": '[{"name": "weather"}]',
    }
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    openai = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "sun"},
        {"role": "assistant", "content": "Sunny."},
    ]
    first, second = (
        r.example for r in read_records(written(tmp_path, row, {"messages": openai})).records
    )
    assert isinstance(first, ChatExample)
    assert isinstance(second, ChatExample)
    assert [m["role"] for m in first.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert "<tools>" in first.messages[0]["content"]
    assert first.messages[2]["content"] == '<tool_call>\n{"name": "weather"}\n</tool_call>'
    assert '{"name": "weather", "arguments": {}}' in second.messages[1]["content"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi", "chosen": "Same.", "rejected": "Same. "}, "same reply"),
        ({"prompt": "Hi", "chosen": "", "rejected": "No."}, "chosen is empty"),
        ({"chosen": "Yes", "rejected": "No"}, "transcript"),
        ({"chosen": [HI, YES], "rejected": [{"role": "user", "content": "Ho"}, NO]}, "agree"),
        ({"prompt": [HI, YES], "chosen": "a", "rejected": "b"}, "assistant's turn"),
        (
            {"prompt": [{"role": "wizard", "content": "x"}], "chosen": "a", "rejected": "b"},
            "'wizard'",
        ),
    ],
)
def test_pairs_that_contradict_themselves(tmp_path: Path, row: Any, reason: str):
    path = written(tmp_path, row, ROWS[-1][1])
    (bad,) = read_records(path).bad
    assert reason in bad.reason


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [HI], "chosen": [YES], "rejected": [NO]},
        {"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Yes."},
         "rejected": {"from": "gpt", "value": "No."}},
        {"chosen": [HI, YES], "rejected": [HI, NO]},
        {"instruction": "Hi", "input": "", "chosen": "Yes.", "rejected": "No."},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes.", "rejected": "\n\nHuman: Hi\n\nAssistant: No."},
        {"prompt": "Hi", "chosen": [HI, YES], "rejected": [HI, NO]},
    ],
)  # fmt: skip
def test_every_layout_of_a_pair_says_the_same(tmp_path: Path, row: Any):
    (record,) = read_records(written(tmp_path, row)).records
    assert record.example == PreferencePair([HI], "Yes.", "No.")


def test_loss_is_on_the_answers_alone(tokenizer: Tokenizer):
    chat = supervise(tokenizer, ChatExample([HI, YES, HI, NO]), max_length=100)
    assert render_masked(tokenizer, chat.as_dict()) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Yes.<|im_end|>⟧\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦No.<|im_end|>⟧"
    )
    last = supervise(tokenizer, ChatExample([HI, YES, HI, NO]), max_length=100, loss_on="last")
    assert render_masked(tokenizer, last.as_dict()).count("⟦") == 1
    text = supervise(tokenizer, TextExample("Question: 1?\nAnswer:", " 1"), max_length=100)
    assert render_masked(tokenizer, text.as_dict()) == "Question: 1?\nAnswer:⟦ 1<|im_end|>⟧"
    whole = supervise(tokenizer, TextExample("", "Once"), max_length=100)
    assert all(whole.weights)


def test_a_long_text_loses_the_beginning_of_its_prompt(tokenizer: Tokenizer):
    example = supervise(tokenizer, TextExample("word " * 50, "answer"), max_length=12)
    assert len(example.input_ids) == 12
    assert "answer" in tokenizer.decode(example.input_ids)


def test_a_box_is_read_with_its_braces():
    assert last_box("so \\boxed{1} or \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    assert last_box("no box") is None
    assert last_box("\\boxed{1") is None


def test_math_rows_and_grading(tmp_path: Path):
    row = {
        "problem": "Half?",
        "solution": "It is \\boxed{\\frac{1}{2}}.",
        "type": "Algebra",
        "level": "Level 1",
    }
    dataset = MATHDataset(data_path=written(tmp_path, row))
    question, _, truth = dataset.get_example_question(0)
    assert (question, truth) == ("Half?", "\\frac{1}{2}")
    assert dataset.evaluate_answer("\\boxed{0.5}", truth, question)["is_correct"]
    assert not dataset.evaluate_answer("\\boxed{2}", truth, question)["is_correct"]
    assert dataset[0]["type"] == "Algebra"
    bad = written(tmp_path, row, {"problem": "x", "solution": "no answer"}, name="bad.jsonl")
    with pytest.raises(InvalidRequestError, match=rf"{bad}:2: the solution must have its answer"):
        MATHDataset(data_path=bad)


def test_aqua_refuses_a_right_answer_that_is_no_option(tmp_path: Path):
    row = {"question": "Q", "options": ["A)1", "B)2"], "rationale": "R", "correct": "E"}
    with pytest.raises(InvalidRequestError, match="correct must be one of A, B, got 'E'"):
        AQuADataset(data_path=written(tmp_path, row))


def test_inspection_counts_and_renders(tmp_path: Path, tokenizer: Tokenizer):
    facts = inspect_file(written(tmp_path, ROWS[0][1], ROWS[-1][1], "{"), tokenizer, max_length=10)
    assert facts["formats"] == {"messages": 1, "preference": 1}
    assert facts["num_bad"] == 1
    assert facts["bad"][0].split(":")[-3].endswith("data.jsonl") or ":3:" in facts["bad"][0]
    assert sum(one["count"] for one in facts["histogram"]) == 2
    assert facts["num_shortened"] == 2
    assert "⟦Yes.<|im_end|>⟧" in facts["rendered"][0]["text"]
    assert facts["rendered"][1]["text"].startswith("chosen:")
    assert inspect_file(written(tmp_path, {"a": 1}, name="b.jsonl"))["num_records"] == 0


def test_histogram_covers_every_length():
    for lengths in ([5], [1, 2, 3], list(range(100)), [7, 7, 90]):
        bins = histogram(lengths)
        assert sum(one["count"] for one in bins) == len(lengths)
        assert (bins[0]["from"], bins[-1]["to"]) == (min(lengths), max(lengths))


def test_gzipped_lines(tmp_path: Path):
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS[0][1]).encode()))
    assert len(read_records(path).records) == 1


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "expected", "num_bad"),
    [
        ("sharegpt/original/glaive_toolcall_en_demo.json", {"sharegpt": 300}, 0),
        ("sharegpt/original/glaive_toolcall_zh_demo.json", {"sharegpt": 298}, 2),
        ("sharegpt/original/kto_en_demo.json", {"messages": 300}, 0),
        ("sharegpt/derived/dialect_b_zh.jsonl", {"messages": 300}, 0),
        ("sharegpt/derived/dialect_a_en.json", {"sharegpt": 300}, 0),
        ("preference/original/dpo_en_demo.json", {"preference": 300}, 0),
        ("preference/derived/pairs_zh.jsonl", {"preference": 300}, 0),
        ("preference/hh-rlhf/harmless-base/test.jsonl.gz", {"preference": 2299}, 13),
        ("aqua/test.json", {"aqua": 254}, 0),
        ("gsm8k/test.jsonl", {"gsm8k": 1319}, 0),
    ],
)
def test_real_files(name: str, expected: dict[str, int], num_bad: int):
    if not (SHARED / name).is_file():
        pytest.skip(f"{name} is not beside the checkout")
    found = read_records(SHARED / name)
    assert (found.formats, len(found.bad)) == (expected, num_bad)


@pytest.mark.shared
def test_every_rationale_of_aqua_is_graded_right():
    """The grader must accept the reference answer of every row."""
    if not (SHARED / "aqua" / "test.json").is_file():
        pytest.skip("aqua is not beside the checkout")
    dataset = AQuADataset("test", data_path=SHARED / "aqua")
    assert len(dataset) == 254
    for index in range(len(dataset)):
        question, _, truth = dataset.get_example_question(index)
        assert dataset.evaluate_answer(dataset[index]["answer"], truth, question)["is_correct"], (
            index
        )
