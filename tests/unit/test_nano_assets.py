"""The shipped base model: complete, small, loadable, and its tokenizer loses nothing."""

import json
from importlib.resources import as_file, files
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

LARGEST_BYTES = 12 * 1024 * 1024
WHOLE_TOKENS = ("<think>", "</think>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")


@pytest.fixture(scope="module")
def folder():
    with as_file(files("eztinker") / "assets" / "nano") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_all_files_are_there_and_small(folder):
    wanted = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "README.md",
        "LICENSE",
    }
    found = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert wanted <= set(found)
    assert sum(found.values()) <= LARGEST_BYTES


def test_config_and_weights_agree(folder, tokenizer):
    from safetensors import safe_open

    config = _json(folder / "config.json")
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert config["max_position_embeddings"] >= 1024
    assert config["vocab_size"] == tokenizer.get_vocab_size()
    with safe_open(str(folder / "model.safetensors"), framework="np") as weights:
        embedding = weights.get_slice("model.embed_tokens.weight").get_shape()
    assert embedding == [config["vocab_size"], config["hidden_size"]]


def test_control_and_think_tokens_are_whole(tokenizer):
    for text in WHOLE_TOKENS:
        assert tokenizer.encode(text).ids == [tokenizer.token_to_id(text)]


def test_generation_stops_at_end_of_turn_and_end_of_text(folder, tokenizer):
    stops = _json(folder / "generation_config.json")["eos_token_id"]
    ends = ("<|im_end|>", "<|endoftext|>")
    assert sorted(stops) == sorted(tokenizer.token_to_id(text) for text in ends)


def test_think_tokens_survive_when_control_tokens_are_skipped(tokenizer):
    ids = tokenizer.encode("<think>1 + 1 = 2</think><|im_end|>").ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>1 + 1 = 2</think>"


@given(number=st.integers(min_value=0, max_value=10**12))
def test_each_digit_is_a_token_of_its_own(tokenizer, number):
    assert tokenizer.encode(str(number)).tokens == list(str(number))


@settings(max_examples=300)
@given(text=st.text())
def test_any_text_comes_back_unchanged(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text", ["naïve café ☕", "你好，世界！龘", "\x00\t\r\n  \n", "👩‍👩‍👧 𝔘", "#### 42", "a  b"]
)
def test_text_of_every_sort_comes_back_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_a_prompt_ends_where_its_answer_begins(tokenizer):
    prompt = "Question: Ann has 3 apples.\nAnswer:"
    for answer in (" 3 + 4 = 7.\n#### 7", "\n#### 7"):
        apart = tokenizer.encode(prompt).ids + tokenizer.encode(answer).ids
        assert tokenizer.encode(prompt + answer).ids == apart


def test_chat_template_renders_chatml(folder):
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    assert _json(folder / "tokenizer_config.json")["chat_template"] == template
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "你好"}]
    environment = jinja2.Environment(autoescape=False)
    text = environment.from_string(template).render(messages=messages, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    )
