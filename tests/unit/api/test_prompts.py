"""Prompts of three kinds, stops, and the text that an answer shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.api import prompts
from eztinker.api.answers import visible_text
from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.models import api as wire
from eztinker.rendering.tokenizer import Tokenizer
from eztinker.service.model_folder import read_record
from eztinker.types.operations import Sample
from eztinker.types.sampling import SampledSequence, SamplingParams, WeightsRef

from .tiny_model import IM_END, IM_START, write_tiny_model


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(tiny_folder)


def sampled(folder: Path, body: dict[str, Any]) -> Sample:
    return prompts.sample(
        wire.SampleRequest.model_validate(body),
        weights=WeightsRef("tiny"),
        base=read_record("tiny", folder),
        tokenizer=Tokenizer.from_folder(folder),
        seed=1,
    )


def test_text_is_encoded_and_echoed(tiny_folder: Path, tokenizer: Tokenizer) -> None:
    operation = sampled(tiny_folder, {"prompt": "你好"})
    assert operation.prompt_tokens.tolist() == tokenizer.encode("你好")
    assert operation.prompt_text == "你好"


def test_token_ids_go_as_they_are(tiny_folder: Path) -> None:
    operation = sampled(tiny_folder, {"prompt": [1, 2, IM_START]})
    assert operation.prompt_tokens.tolist() == [1, 2, IM_START]
    assert operation.prompt_text is None


@pytest.mark.parametrize("field", ["messages", "prompt"])
def test_messages_are_rendered(field: str, tiny_folder: Path, tokenizer: Tokenizer) -> None:
    operation = sampled(tiny_folder, {field: [{"role": "user", "content": "hi"}]})
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert operation.prompt_text == text
    assert operation.prompt_tokens.tolist() == tokenizer.encode(text, add_special_tokens=False)
    assert operation.prompt_tokens[0] == IM_START


def test_messages_need_a_chat_template(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "plain", chat_template=False)
    with pytest.raises(UnsupportedError, match="no chat template"):
        sampled(folder, {"messages": [{"role": "user", "content": "hi"}]})


def test_switches(tiny_folder: Path) -> None:
    assert sampled(tiny_folder, {"prompt": "x"}).params.top_k == 50
    for off in (0, -1, 10**9):
        assert sampled(tiny_folder, {"prompt": "x", "top_k": off}).params.top_k == -1
    greedy = sampled(tiny_folder, {"prompt": "x", "do_sample": False, "temperature": 0.7})
    assert greedy.params.temperature == 0.0


@pytest.mark.parametrize(
    ("stop", "texts", "ids"),
    [
        (None, (), None),
        ([], (), None),
        ("END", ("END",), None),
        (["a", "b"], ("a", "b"), None),
        ([IM_END, 5], (), (IM_END, 5)),
    ],
)
def test_stops(stop: Any, texts: tuple, ids: tuple | None, tiny_folder: Path) -> None:
    body = {"prompt": "x"} if stop is None else {"prompt": "x", "stop": stop}
    params = sampled(tiny_folder, body).params
    assert params.stop == texts
    assert params.stop_token_ids == ids


def test_prompt_and_new_tokens_must_fit(tiny_folder: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"5 tokens and 252 .* 257, .* 256"):
        sampled(tiny_folder, {"prompt": "hello", "max_new_tokens": 252})
    assert sampled(tiny_folder, {"prompt": "hello", "max_new_tokens": 251}).params.max_tokens == 251


def test_a_retry_gets_the_same_seed() -> None:
    assert prompts.chosen_seed(None, "key") == prompts.chosen_seed(None, "key")
    assert prompts.chosen_seed(None, "key") != prompts.chosen_seed(None, "other")
    assert prompts.chosen_seed(5, "key") == 5


# What an answer shows -----------------------------------------------------------------------------


def shown(tokenizer: Tokenizer, tokens: list[int], reason: Any, **params: Any) -> str:
    sequence = SampledSequence(tokens, [0.0] * len(tokens), reason)
    return visible_text(sequence, SamplingParams(**params), tokenizer)


def test_the_stop_string_is_cut_and_the_rest_kept(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("one. END")
    assert shown(tokenizer, tokens, "stop", stop=("END",)) == "one. "
    assert shown(tokenizer, tokens, "length", stop=("never",)) == "one. END"


def test_the_end_token_is_not_shown(tokenizer: Tokenizer) -> None:
    tokens = [*tokenizer.encode("hi"), IM_END]
    assert shown(tokenizer, tokens, "stop") == "hi"


def test_a_stop_token_of_the_caller_is_not_shown(tokenizer: Tokenizer) -> None:
    (bang,) = tokenizer.encode("!")
    tokens = tokenizer.encode("hi!")
    assert shown(tokenizer, tokens, "stop", stop_token_ids=(bang,)) == "hi"
    assert shown(tokenizer, tokens, "length", stop_token_ids=()) == "hi!"


def test_a_stop_string_may_hold_a_special_token(tokenizer: Tokenizer) -> None:
    tokens = [IM_START, *tokenizer.encode("ab\n"), IM_END]
    text = shown(tokenizer, tokens, "stop", stop=("b\n<|im_end|>",), stop_token_ids=())
    assert text == "a"


def test_what_special_tokens_hide_is_no_stop_string(tokenizer: Tokenizer) -> None:
    """The sampler saw ``A<|im_start|>B``; without the special token it reads ``AB``."""
    (letter_a,), (letter_b,) = tokenizer.encode("A"), tokenizer.encode("B")
    tokens = [letter_a, IM_START, letter_b, IM_END]
    assert shown(tokenizer, tokens, "stop", stop=("AB",)) == "AB"
    assert shown(tokenizer, tokens[:3], "length", stop=("AB",)) == "AB"


@given(st.text(max_size=12), st.text(min_size=1, max_size=3))
def test_any_text_is_cut_where_its_characters_say(tiny_folder: Path, text: str, stop: str) -> None:
    tokenizer = Tokenizer.from_folder(tiny_folder)
    tokens = tokenizer.encode(text + stop)
    expected = (text + stop)[: (text + stop).find(stop)]
    assert shown(tokenizer, tokens, "stop", stop=(stop,), stop_token_ids=()) == expected
