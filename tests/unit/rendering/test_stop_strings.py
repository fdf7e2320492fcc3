"""Stop strings over a growing sequence agree with a search in the whole decoded text."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eztinker.errors import InvalidRequestError
from eztinker.rendering.stops import StopStringMatcher, cut_at_stop, validate_stop
from eztinker.rendering.tokenizer import Tokenizer
from tests.unit.rendering.tiny_tokenizer import write_tiny_tokenizer


def make_tokenizer() -> Tokenizer:
    with tempfile.TemporaryDirectory() as name:
        return Tokenizer.from_folder(write_tiny_tokenizer(Path(name)))


TOKENIZER = make_tokenizer()


def first_match(ids: list[int], stop: str | list[str]) -> int | None:
    matcher = StopStringMatcher(TOKENIZER, stop)
    return next((i for i, token in enumerate(ids) if matcher.push(token)), None)


def first_match_by_search(ids: list[int], stop: list[str]) -> int | None:
    for i in range(len(ids)):
        text = TOKENIZER.decode(ids[: i + 1], skip_special_tokens=False)
        if any(string in text for string in stop):
            return i
    return None


@given(
    st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=40),
    st.data(),
)
@settings(max_examples=200)
def test_any_tokens_any_stop(ids: list[int], data: st.DataObject) -> None:
    text = TOKENIZER.decode(ids, skip_special_tokens=False)
    pieces = [text[i : i + n] for i in range(0, len(text), 7) for n in (1, 3, 12)]
    # U+FFFD stands for bytes that are no text yet; what follows may still complete them
    candidates = [piece for piece in pieces if piece and "\ufffd" not in piece] or ["never"]
    stop = data.draw(st.lists(st.sampled_from(candidates), min_size=1, max_size=3))
    assert first_match(ids, stop) == first_match_by_search(ids, stop)


@given(
    st.text(alphabet="你好世界界界 \né👩x", min_size=1, max_size=30),
    st.integers(0, 20),
    st.integers(1, 8),
)
def test_characters_of_many_tokens(text: str, start: int, length: int) -> None:
    stop = text[start % len(text) :][:length]
    ids = TOKENIZER.encode(text)
    found = first_match(ids, [stop])
    assert found is not None
    assert stop in TOKENIZER.decode(ids[: found + 1], skip_special_tokens=False)
    assert stop not in TOKENIZER.decode(ids[:found], skip_special_tokens=False)


def test_a_stop_across_and_inside_tokens() -> None:
    ids = TOKENIZER.encode("She sells 9 eggs.\n\nQuestion: more")
    found = first_match(ids, "\n\nQuestion:")
    assert found is not None
    assert TOKENIZER.decode(ids[: found + 1]).startswith("She sells 9 eggs.\n\nQuestion:")
    assert first_match(ids, "ell") is not None  # inside one token
    assert first_match(ids, "Answer") is None


def test_special_tokens_count_as_their_text() -> None:
    ids = TOKENIZER.encode("done<|im_end|>\n<|im_start|>user")
    assert first_match(ids, ["<|im_end|>"]) == ids.index(TOKENIZER.encode("<|im_end|>")[0])


def test_it_stays_matched_and_padded_rows_have_no_text() -> None:
    matcher = StopStringMatcher(TOKENIZER, ["eggs"])
    ids = TOKENIZER.encode("egg")
    for token in (*ids, *[TOKENIZER.vocab_size + 7] * 50):
        assert not matcher.push(token)
    assert [matcher.push(token) for token in TOKENIZER.encode("s")] == [True]
    assert matcher.push(TOKENIZER.encode("x")[0])
    assert matcher.matched


class CountingTokenizer:
    vocab_size = 256
    decoded = 0

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        self.decoded += len(ids)
        return bytes(ids).decode("utf-8", "replace")


def test_work_per_token_does_not_grow() -> None:
    tokenizer = CountingTokenizer()
    matcher = StopStringMatcher(tokenizer, ["STOP"])
    for _ in range(1000):
        matcher.push(ord("x"))
    assert tokenizer.decoded <= 1000 * 8
    idle = StopStringMatcher(tokenizer, [])
    before = tokenizer.decoded
    assert not idle.push(1)
    assert tokenizer.decoded == before


@pytest.mark.parametrize("stop", [[""], ["a", ""], [3], [None]])
def test_stops_that_match_everything_are_refused(stop: list) -> None:
    with pytest.raises(InvalidRequestError):
        validate_stop(stop)


@given(
    st.text(alphabet="abc"), st.lists(st.text(alphabet="abc", min_size=1, max_size=3), max_size=3)
)
def test_cut_at_the_earliest_stop(text: str, stop: list[str]) -> None:
    cut = cut_at_stop(text, stop)
    assert text.startswith(cut)
    assert not any(string in cut for string in stop)
    assert cut == text or any(text[len(cut) :].startswith(string) for string in stop)


def test_one_string_is_one_stop() -> None:
    assert cut_at_stop("a cab", "ab") == "a c"
