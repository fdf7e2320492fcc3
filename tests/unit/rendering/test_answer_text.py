"""The text of an answer as it grows: nothing half, nothing of a stop string, and the same in the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from eztinker.rendering.answer_text import AnswerText, Piece
from eztinker.rendering.stops import cut_at_stop
from eztinker.rendering.tokenizer import Tokenizer
from tests.unit.rendering.tiny_tokenizer import TEXTS, write_tiny_tokenizer

STORIES = Path(__file__).parents[3].parent / "shared/models/stories260K"


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory) -> Tokenizer:
    return Tokenizer.from_folder(write_tiny_tokenizer(tmp_path_factory.mktemp("byte-level")))


@pytest.fixture(scope="module")
def sentence_piece(tmp_path_factory) -> Tokenizer:
    """A vocabulary of letters, a few words, and a token for every byte."""
    folder = tmp_path_factory.mktemp("sentence-piece")
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*map(chr, range(97, 123)), "\u2581", "\u2581the", "\u2581a", "ing"]
    backend = Backend(
        models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    )
    backend.add_special_tokens(["<s>", "</s>"])
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return Tokenizer.from_folder(folder)


def pieces_of(tokens: list[int], answer: AnswerText, *, stopped: bool = False) -> list[Piece]:
    return [*(answer.push([token]) for token in tokens), answer.finish(stopped=stopped)]


def joined(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


STOPS = ["\n\n", "####", "#### 18", "好，世", "<|im_end|>", "e q", "\ufffd"]
some_stops = st.lists(st.sampled_from(STOPS), max_size=3)


@settings(max_examples=150)
@given(tokens=st.lists(st.integers(0, 425), max_size=60), stop=some_stops)
def test_any_tokens_give_the_text_of_all_of_them(byte_level, tokens, stop):
    pieces = pieces_of(tokens, AnswerText(byte_level, stop=stop))
    full = byte_level.decode(tokens, skip_special_tokens=False)
    if cut_at_stop(full, stop) == full:
        assert joined(pieces) == byte_level.decode(tokens)
        assert sum(piece.num_tokens for piece in pieces) == len(tokens)
    else:
        assert not any(string in joined(pieces) for string in stop if string in full)


@pytest.mark.parametrize("vocabulary", ["byte_level", "sentence_piece"])
@settings(max_examples=100)
@given(
    tokens=st.lists(st.integers(0, 287), max_size=60),
    sizes=st.lists(st.integers(1, 9), min_size=60, max_size=60),
    end_ids=st.sampled_from([[], [5, 200], [2]]),
    stop=some_stops,
    stopped=st.booleans(),
)
def test_tokens_that_come_together_give_what_they_give_one_by_one(
    request, vocabulary, tokens, sizes, end_ids, stop, stopped
):
    tokenizer = request.getfixturevalue(vocabulary)
    alone = AnswerText(tokenizer, end_ids=end_ids, stop=stop)
    together = AnswerText(tokenizer, end_ids=end_ids, stop=stop)
    pieces, rest = [], list(tokens)
    for size in sizes:
        pieces.append(together.push(rest[:size]))
        rest = rest[size:]
    pieces.append(together.finish(stopped=stopped))
    expected = pieces_of(tokens, alone, stopped=stopped)
    assert joined(pieces) == joined(expected)
    assert sum(p.num_tokens for p in pieces) == sum(p.num_tokens for p in expected)


@settings(max_examples=100)
@given(text=st.sampled_from(TEXTS), stop=some_stops, split=st.integers(0, 30))
def test_nothing_comes_out_that_is_taken_back(byte_level, text, stop, split):
    """With the text before the answer, which may end inside a character."""
    tokens = byte_level.encode(text)
    prompt, tokens = tokens[:split], tokens[split:]
    answer = AnswerText(byte_level, stop=stop, prompt_tokens=prompt)
    whole = cut_at_stop(text[len(byte_level.decode(prompt).rstrip("\ufffd")) :], stop)
    grown = ""
    for piece in pieces_of(tokens, answer):
        grown += piece.text
        assert whole.startswith(grown)
    assert grown == whole


@pytest.mark.parametrize("prompt", [[], [287, 288]])
def test_bytes_of_long_chinese_text_are_read_from_the_beginning_of_characters(
    sentence_piece, prompt
):
    text = "你好，世界！" * 9
    tokens = [3 + byte for byte in text.encode()]
    pieces = pieces_of(tokens, AnswerText(sentence_piece, prompt_tokens=prompt))
    assert joined(pieces) == text
    assert [piece.text for piece in pieces[:7]] == ["", "", "你", "", "", "好", ""]


def test_a_blank_after_the_prompt_is_kept_and_one_after_a_chat_is_not(sentence_piece):
    word = 3 + 256 + 26 + 1  # " the"
    continued = AnswerText(sentence_piece, prompt_tokens=[word])
    assert joined(pieces_of([word, word], continued)) == " the the"
    assert joined(pieces_of([word, word], AnswerText(sentence_piece))) == "the the"


def test_the_token_that_ended_an_answer_is_no_part_of_it(byte_level):
    end = byte_level.encode("<|im_end|>")[0]
    other = byte_level.encode("x")[0]
    pieces = pieces_of([other, end], AnswerText(byte_level, end_ids=[end]), stopped=True)
    assert (joined(pieces), sum(p.num_tokens for p in pieces)) == ("x", 1)
    pieces = pieces_of([other, other], AnswerText(byte_level, end_ids=[other]), stopped=True)
    assert (joined(pieces), sum(p.num_tokens for p in pieces)) == ("x", 1)
    pieces = pieces_of([other, other], AnswerText(byte_level, end_ids=[other]), stopped=False)
    assert (joined(pieces), sum(p.num_tokens for p in pieces)) == ("xx", 2)


def test_a_stop_string_inside_a_token_keeps_what_stands_before_it(byte_level):
    tokens = byte_level.encode("The quick brown")
    pieces = pieces_of(tokens, AnswerText(byte_level, stop=["uick"]))
    assert joined(pieces) == "The q"
    assert sum(p.num_tokens for p in pieces) <= len(tokens)


@pytest.mark.parametrize("text", TEXTS[:4])
def test_the_bytes_of_tokens_are_the_bytes_of_the_text(byte_level, text):
    tokens = byte_level.encode(text)
    assert b"".join(map(byte_level.token_bytes, tokens)) == text.encode()
    assert byte_level.token_bytes(10**6) == b""


def test_bytes_of_sentence_piece_tokens(sentence_piece):
    assert sentence_piece.token_bytes(3 + 0xE4) == b"\xe4"
    assert sentence_piece.token_bytes(3 + 256 + 26 + 1) == b" the"
    assert sentence_piece.token_bytes(2) == b"</s>"


@pytest.mark.shared
@pytest.mark.skipif(not STORIES.is_dir(), reason="needs ../shared/models/stories260K")
def test_a_real_sentence_piece_vocabulary():
    tokenizer = Tokenizer.from_folder(STORIES)
    text = "Once upon a time, there was a little girl named Lily. 你好"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert joined(pieces_of(tokens, AnswerText(tokenizer))) == text
    assert b"".join(map(tokenizer.token_bytes, tokens)).decode().strip() == text
