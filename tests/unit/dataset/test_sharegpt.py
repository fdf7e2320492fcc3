"""ShareGPT: dialects, rules, counts, and where the loss is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eztinker.dataset.base import Dataset
from eztinker.dataset.sharegpt import ShareGPTDataset
from eztinker.errors import InvalidRequestError, NotFoundError, UnsupportedError
from eztinker.rendering.tokenizer import Tokenizer
from tests.unit.rendering.tiny_tokenizer import CHATML, write_tiny_tokenizer

SHARED = Path(__file__).parents[4] / "shared/data"
DIALECT_A = {
    "id": "a",
    "conversations": [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "How many eggs?"},
        {"from": "gpt", "value": "She sells 9 eggs."},
        {"from": "human", "value": "And then?"},
        {"from": "gpt", "value": "你好，世界！"},
    ],
}
DIALECT_B = {
    "messages": [
        {"role": "user", "content": "The quick brown fox"},
        {"role": "assistant", "content": "jumps over the lazy dog"},
    ],
    "label": True,
}


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(tokenizer_folder)


def write(path: Path, rows: list) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    else:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write(tmp_path / "mixed.jsonl", [DIALECT_A, DIALECT_B])


def trained_text(tokenizer: Tokenizer, example: dict[str, list[Any]]) -> str:
    pairs = zip(example["input_ids"], example["weights"], strict=True)
    return tokenizer.decode([t for t, w in pairs if w], skip_special_tokens=False)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_both_dialects_in_one_file(tmp_path: Path, tokenizer: Tokenizer, suffix: str) -> None:
    path = write(tmp_path / f"mixed{suffix}", [DIALECT_A, DIALECT_B])
    dataset = ShareGPTDataset(path, tokenizer)
    assert isinstance(dataset, Dataset)
    texts = [dataset.get_conversation_turns(i)[1] for i in range(2)]
    assert dataset.stats == {
        "total_loaded": 2,
        "valid_conversations": 2,
        "invalid_conversations": 0,
        "total_turns": 7,
        "total_tokens": sum(len(tokenizer.encode(text)) for text in texts),
        "dialect_counts": {"from_value": 1, "role_content": 1},
    }
    assert dataset[0]["id"] == "a"
    assert [message["role"] for message in dataset[0]["messages"]] == [
        "system",
        *["user", "assistant"] * 2,
    ]


def test_text_is_in_the_models_chat_template(mixed: Path, tokenizer: Tokenizer) -> None:
    name, text, num_turns = ShareGPTDataset(mixed, tokenizer).get_conversation_turns(1)
    assert name == "mixed_2"
    assert num_turns == 2
    assert text == (
        "<|im_start|>user\nThe quick brown fox<|im_end|>\n"
        "<|im_start|>assistant\njumps over the lazy dog<|im_end|>\n"
    )


def test_prompt_and_answer_of_a_turn(mixed: Path, tokenizer: Tokenizer) -> None:
    dataset = ShareGPTDataset(mixed, tokenizer)
    prompt, answer = dataset.get_training_turn(0, 0)
    assert prompt.endswith("How many eggs?<|im_end|>\n<|im_start|>assistant\n")
    assert answer == "She sells 9 eggs."
    question, prompt, truth = dataset.get_example_question(0)
    assert (question, truth) == ("And then?", "你好，世界！")
    assert "She sells 9 eggs." in prompt
    assert dataset.get_training_turn(0, -2) == dataset.get_training_turn(0, 0)
    for turn in (2, -3):
        with pytest.raises(InvalidRequestError, match="2 assistant turns"):
            dataset.get_training_turn(0, turn)
        with pytest.raises(InvalidRequestError, match="2 assistant turns"):
            dataset.tokenize_for_training(0, turn)


def test_loss_is_on_the_assistants_words_only(mixed: Path, tokenizer: Tokenizer) -> None:
    dataset = ShareGPTDataset(mixed, tokenizer)
    last, first, both = (dataset.tokenize_for_training(0, turn) for turn in (-1, 0, None))
    assert trained_text(tokenizer, last) == "你好，世界！<|im_end|>"
    assert trained_text(tokenizer, first) == "She sells 9 eggs.<|im_end|>"
    assert trained_text(tokenizer, both) == "She sells 9 eggs.<|im_end|>你好，世界！<|im_end|>"
    assert dataset.tokenize_for_training(0) == last
    for example in (last, first, both):
        labels = [
            t if w else -100 for t, w in zip(example["input_ids"], example["weights"], strict=True)
        ]
        assert example["target_ids"] == labels
    prompt, _ = dataset.get_training_turn(0)
    context = tokenizer.encode(prompt, add_special_tokens=False)
    assert last["input_ids"][: len(context)] == context  # what a sampler sees
    assert last["input_ids"] == both["input_ids"]
    assert first["input_ids"] == last["input_ids"][: len(first["input_ids"])]


def test_same_with_a_transformers_tokenizer(
    mixed: Path, tokenizer: Tokenizer, tokenizer_folder: Path
) -> None:
    from transformers import AutoTokenizer

    ours = ShareGPTDataset(mixed, tokenizer)
    theirs = ShareGPTDataset(mixed, AutoTokenizer.from_pretrained(tokenizer_folder))
    assert ours.stats == theirs.stats
    for i in range(2):
        assert ours.get_conversation_turns(i) == theirs.get_conversation_turns(i)
        assert ours.tokenize_for_training(i) == theirs.tokenize_for_training(i)


@pytest.mark.parametrize("max_length", [2, 3, 8, 20, 40])
@pytest.mark.parametrize("turn", [-1, 0, None])
def test_shortening_keeps_answer_tokens(
    tmp_path: Path, tokenizer: Tokenizer, max_length: int, turn: int | None
) -> None:
    long = "eggs " * 30
    rows = [
        {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}] * 2}
        for a, b in ((long, "yes"), ("why", long), (long, long), ("why", "yes"))
    ]
    path = write(tmp_path / "long.jsonl", rows)
    dataset = ShareGPTDataset(path, tokenizer, max_length=max_length, min_length=0)
    whole = ShareGPTDataset(path, tokenizer)
    for i in range(len(rows)):
        example = dataset.tokenize_for_training(i, turn)
        assert len(example["input_ids"]) <= max_length
        assert any(example["weights"])
        assert not all(example["weights"])  # some context stays
        assert trained_text(tokenizer, example)[:3] in trained_text(
            tokenizer, whole.tokenize_for_training(i, turn)
        )


def test_a_long_context_loses_its_beginning_and_keeps_the_whole_answer(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "eggs " * 50},
            {"role": "assistant", "content": "nine"},
        ]
    }
    dataset = ShareGPTDataset(write(tmp_path / "a.jsonl", [row]), tokenizer, max_length=24)
    example = dataset.tokenize_for_training(0)
    assert len(example["input_ids"]) == 24
    assert trained_text(tokenizer, example) == "nine<|im_end|>"
    assert tokenizer.decode(example["input_ids"], False).endswith(
        "<|im_start|>assistant\nnine<|im_end|>"
    )


INVALID = [
    ({"conversations": []}, "from/value"),
    ({"text": "x"}, "conversations"),
    ({"conversations": [], "messages": []}, "conversations and messages"),
    ({"messages": "x"}, "messages"),
    ({"messages": [{"who": "me"}]}, "from/value"),
    ({"messages": [{"role": "user", "content": "a"}]}, "last turn"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "expected the user"),
    ({"messages": [{"role": "system", "content": "a"}]}, "last turn"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, "turn 1"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}, "empty"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]}, "empty"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}, "by the tool"),
    ({"messages": [{"role": "user", "content": "a"}, {"from": "gpt", "value": "b"}]}, "turn 1"),
    ({"messages": [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "b"}]}, "surrogate"),
    ({"messages": [{"role": "user", "content": 5}, {"role": "assistant", "content": "b"}]}, "no text"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]}, {"role": "assistant", "content": "b"}]}, "image_url"),
    ({"messages": [{"role": "user", "content": "<image>a"}, {"role": "assistant", "content": "b"}], "images": ["x.png"]}, "images"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}, "weight"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "train": False}]}, "train"),
    (["no", "object"], "JSON object"),
]  # fmt: skip


def test_lists_that_hold_nothing_to_leave_out_are_no_fault(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": "How many?"}]},
             {"role": "assistant", "content": "There are nine of them.", "weight": 1}]  # fmt: skip
    path = write(tmp_path / "a.jsonl", [{"messages": turns, "images": [], "videos": None}])
    (row,) = ShareGPTDataset(path, tokenizer)
    assert row["messages"][0]["content"] == "How many?"


def test_a_broken_line_is_left_out_unless_strict(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(DIALECT_A) + "\n{broken\n" + json.dumps(DIALECT_B) + "\n")
    with pytest.raises(InvalidRequestError, match=r"bad\.jsonl:2: broken JSON"):
        ShareGPTDataset(path, tokenizer)
    dataset = ShareGPTDataset(path, tokenizer, strict=False)
    assert (len(dataset), dataset.stats["total_loaded"], dataset.invalid[0].line) == (2, 3, 2)
    assert len(ShareGPTDataset(path, tokenizer, strict=False, max_samples=2)) == 1


@pytest.mark.parametrize(("row", "reason"), INVALID)
def test_invalid_conversations(
    tmp_path: Path, tokenizer: Tokenizer, row: dict, reason: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in (DIALECT_A, row)))
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        ShareGPTDataset(path, tokenizer)
    assert caught.value.message.startswith(f"{path}:2: ")
    dataset = ShareGPTDataset(path, tokenizer, strict=False)
    assert len(dataset) == 1
    assert dataset.stats["invalid_conversations"] == 1
    assert dataset.stats["total_loaded"] == 2
    assert (dataset.invalid[0].path, dataset.invalid[0].line) == (path, 2)
    assert reason in dataset.invalid[0].reason


def test_too_short_is_left_out_and_listed(mixed: Path, tokenizer: Tokenizer) -> None:
    lengths = [
        len(tokenizer.encode(ShareGPTDataset(mixed, tokenizer).get_conversation_turns(i)[1]))
        for i in range(2)
    ]
    dataset = ShareGPTDataset(mixed, tokenizer, min_length=lengths[1] + 1)
    assert [row["id"] for row in dataset] == ["a"]
    assert dataset.stats["invalid_conversations"] == 1
    assert "min_length" in dataset.invalid[0].reason
    with pytest.raises(InvalidRequestError, match="no valid conversation"):
        ShareGPTDataset(mixed, tokenizer, min_length=2048)


def test_system_prompt_fills_in(mixed: Path, tokenizer: Tokenizer) -> None:
    dataset = ShareGPTDataset(mixed, tokenizer, system_prompt="Answer briefly.")
    systems = [row["messages"][0]["content"] for row in dataset]
    assert systems == ["Be kind.", "Answer briefly."]
    assert dataset.stats["total_turns"] == 8


def test_shuffle_is_seeded_and_precedes_max_samples(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "many.jsonl", [DIALECT_B | {"id": str(i)} for i in range(30)])

    def ids(**arguments: Any) -> list[str]:
        return [row["id"] for row in ShareGPTDataset(path, tokenizer, **arguments)]

    assert ids(max_samples=3) == ["0", "1", "2"]
    assert ids(shuffle=True) == ids(shuffle=True, seed=42) != ids(shuffle=True, seed=1)
    assert sorted(ids(shuffle=True), key=int) == ids()
    assert ids(shuffle=True, max_samples=3) == ids(shuffle=True)[:3]


def test_export_and_read_again(mixed: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    dataset = ShareGPTDataset(mixed, tokenizer)
    assert dataset.export_to_jsonl(tmp_path / "out/export.jsonl") == 2
    again = ShareGPTDataset(tmp_path / "out/export.jsonl", tokenizer)
    assert list(again) == list(dataset)
    assert again.stats["dialect_counts"] == {"from_value": 0, "role_content": 2}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["export.jsonl"]


def test_free_text_is_graded_by_likeness(mixed: Path, tokenizer: Tokenizer) -> None:
    dataset = ShareGPTDataset(mixed, tokenizer)
    question, _, truth = dataset.get_example_question(1)
    same = dataset.evaluate_answer(f"{question} {truth.upper()}!", truth, question)
    assert (same["score"], same["is_correct"], same["strategy"]) == (1.0, True, "overlap")
    half = dataset.evaluate_answer("jumps over something else entirely", truth, question)
    assert 0 < half["score"] < 0.5
    assert not half["is_correct"]
    for nothing in ("", "!!!", question, None):
        assert dataset.evaluate_answer(nothing, truth, question)["score"] == 0.0  # type: ignore[arg-type]
    assert dataset.evaluate_answer("你好世", "你好，世界！")["score"] == pytest.approx(6 / 7)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"max_length": 1}, "max_length"),
        ({"min_length": -1}, "min_length"),
        ({"min_length": 50, "max_length": 40}, "min_length"),
        ({"max_samples": 0}, "max_samples"),
        ({"tokenizer": "gpt2"}, "tokenizer"),
    ],
)
def test_arguments_are_refused_by_name(
    mixed: Path, tokenizer: Tokenizer, arguments: dict, field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ShareGPTDataset(mixed, **({"tokenizer": tokenizer} | arguments))
    assert caught.value.field == field


def test_missing_file_and_missing_template(tmp_path: Path, mixed: Path) -> None:
    plain = Tokenizer.from_folder(write_tiny_tokenizer(tmp_path / "plain", chat_template=None))
    with pytest.raises(NotFoundError):
        ShareGPTDataset(tmp_path / "absent.json", plain)
    with pytest.raises(UnsupportedError, match="chat template"):
        ShareGPTDataset(mixed, plain, strict=False)


# Qwen3's way: reasoning is shown in the last turn only.
FORGETFUL = CHATML.replace(
    "message['content'] + ",
    "(message['content'] if loop.last else message['content'].split('</think>')[-1].strip()) + ",
)


def test_templates_that_drop_reasoning_from_the_history(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write_tiny_tokenizer(tmp_path / "t", chat_template=FORGETFUL))
    answer = "<think>16 - 7</think>\n\nnine"
    turns = [{"role": "user", "content": "eggs?"}, {"role": "assistant", "content": answer}] * 2
    dataset = ShareGPTDataset(write(tmp_path / "a.jsonl", [{"messages": turns}]), tokenizer)
    assert trained_text(tokenizer, dataset.tokenize_for_training(0, 0)) == answer + "<|im_end|>"
    both = trained_text(tokenizer, dataset.tokenize_for_training(0, None))
    assert both == f"nine<|im_end|>{answer}<|im_end|>"


def test_history_rendered_differently_and_words_repeated_by_the_user(tmp_path: Path) -> None:
    counting = CHATML.replace("'<|im_start|>' + ", "messages | length | string + '<|im_start|>' + ")
    tokenizer = Tokenizer.from_folder(write_tiny_tokenizer(tmp_path / "t", chat_template=counting))
    turns = [{"role": "user", "content": "nine?"}, {"role": "assistant", "content": "nine"}] * 2
    dataset = ShareGPTDataset(write(tmp_path / "a.jsonl", [{"messages": turns}]), tokenizer)
    both = trained_text(tokenizer, dataset.tokenize_for_training(0, None))
    assert both == "nine<|im_end|>" * 2


def test_templates_that_hide_the_words_are_refused(tmp_path: Path) -> None:
    template = (
        "{{ messages | length }}{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    )
    tokenizer = Tokenizer.from_folder(write_tiny_tokenizer(tmp_path / "t", chat_template=template))
    path = write(tmp_path / "a.jsonl", [DIALECT_B])
    dataset = ShareGPTDataset(path, tokenizer, min_length=0)
    with pytest.raises(UnsupportedError, match="loss mask"):
        dataset.tokenize_for_training(0)


REAL_SIZES = {
    "derived/dialect_a_en.json": (300, 0),
    "derived/dialect_a_zh.jsonl": (300, 0),
    "derived/dialect_b_en.jsonl": (300, 0),
    "derived/dialect_b_zh.json": (300, 0),
    "original/glaive_toolcall_en_demo.json": (300, 0),
    "original/kto_en_demo.json": (300, 0),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL_SIZES)
def test_real_files(name: str) -> None:
    if not (SHARED / "sharegpt").is_dir():
        pytest.skip("the shared data are not beside this checkout")
    tokenizer = Tokenizer.from_folder(SHARED / "tokenizers/minimind")
    valid, invalid = REAL_SIZES[name]
    dataset = ShareGPTDataset(SHARED / "sharegpt" / name, tokenizer, strict=invalid == 0)
    assert (len(dataset), dataset.stats["invalid_conversations"]) == (valid, invalid)
    for i in range(0, valid, 20):
        example = dataset.tokenize_for_training(i)
        assert 0 < sum(example["weights"]) <= len(example["input_ids"]) <= 2048
        if len(example["input_ids"]) < 2048:
            answer = dataset[i]["messages"][-1]["content"]
            assert trained_text(tokenizer, example) == answer.lstrip("\n") + "<|im_end|>"
