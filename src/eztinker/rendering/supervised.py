"""Supervised examples: a conversation as token ids with loss weights on what the assistant says.

Finds the assistant's words inside the rendered chat template, weights exactly them and the mark that ends the
turn, and shortens without losing the answer. It knows no data set and no wire format beyond the three lists of
``forward_backward``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.rendering.chat_tokenizer import ChatTokenizer

IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True)
class SupervisedExample:
    """One training example.

    Attributes:
        input_ids: tokens of the whole text.
        weights: one per token: 1.0 on the assistant's tokens, else 0.0.
    """

    input_ids: list[int]
    weights: list[float]

    def as_dict(self) -> dict[str, list[Any]]:
        """Arguments of ``client.forward_backward``: labels stand at the place of their token (the server shifts)."""
        labels = [
            token if weight else IGNORED_LABEL
            for token, weight in zip(self.input_ids, self.weights, strict=True)
        ]
        return {"input_ids": self.input_ids, "target_ids": labels, "weights": self.weights}


def assistant_turns(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of the assistant's messages."""
    return [i for i, message in enumerate(messages) if message["role"] == "assistant"]


def supervised_example(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    turn: int | None = -1,
    max_length: int,
) -> SupervisedExample:
    """Tokens and weights of a conversation.

    Args:
        tokenizer: of the model that is trained; it needs a chat template.
        messages: ``role`` and ``content``; at least one assistant message after the first.
        turn: which of the assistant's turns is trained, counted from 0 or, negative, from the end; the example
            ends with it and what came before is context. None trains all of them at once.
        max_length: most tokens of the example, at least 2. One turn: the context loses its oldest tokens, but
            keeps half of the room when the answer alone is too long; then the answer loses its end. All turns:
            the conversation loses its end; should no answer begin before, its first turn is taken alone.

    Raises:
        InvalidRequestError: no such turn, or ``max_length`` below 2.
        UnsupportedError: no chat template, or one that does not show the assistant's words as they are.
    """
    if max_length < 2:
        raise InvalidRequestError(
            f"max_length must be at least 2, got {max_length}.", field="max_length"
        )
    turns = assistant_turns(messages)
    if turn is None:
        example = _all_turns(tokenizer, messages, turns)
        shortened = SupervisedExample(example.input_ids[:max_length], example.weights[:max_length])
        if any(shortened.weights):
            return shortened
        turn = 0
    if not -len(turns) <= turn < len(turns):
        raise InvalidRequestError(
            f"turn must be from {-len(turns)} to {len(turns) - 1} (or None for all): the conversation has "
            f"{len(turns)} assistant turns, got {turn}.",
            field="turn",
        )
    return _one_turn(tokenizer, messages[: turns[turn] + 1], max_length)


def _one_turn(
    tokenizer: ChatTokenizer, messages: Sequence[Mapping[str, Any]], max_length: int
) -> SupervisedExample:
    text = tokenizer.render_chat(messages, add_generation_prompt=False)
    start, end = _span(tokenizer, messages, len(messages) - 1, text, 0)
    prompt, answer = _encode_pieces(tokenizer, text, [start, end])
    if len(prompt) + len(answer) > max_length:
        room = min(len(prompt), max(max_length - len(answer), max_length // 2))
        prompt, answer = prompt[len(prompt) - room :], answer[: max_length - room]
    return SupervisedExample(prompt + answer, [0.0] * len(prompt) + [1.0] * len(answer))


def _all_turns(
    tokenizer: ChatTokenizer, messages: Sequence[Mapping[str, Any]], turns: list[int]
) -> SupervisedExample:
    text = tokenizer.render_chat(messages, add_generation_prompt=False)
    cuts: list[int] = []
    for index in turns:
        cuts.extend(_span(tokenizer, messages, index, text, cuts[-1] if cuts else 0))
    ids: list[int] = []
    weights: list[float] = []
    for i, piece in enumerate(_encode_pieces(tokenizer, text, cuts)):
        ids += piece
        weights += [float(i % 2)] * len(piece)  # pieces alternate: context, answer, context, …
    return SupervisedExample(ids, weights)


def _span(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, Any]],
    index: int,
    text: str,
    after: int,
) -> tuple[int, int]:
    """Where the words of one assistant message and their end mark stand in the rendered text."""
    content = str(messages[index]["content"])
    prompt = tokenizer.render_chat(messages[:index], add_generation_prompt=True)
    until = tokenizer.render_chat(messages[: index + 1], add_generation_prompt=False)
    follows_prompt = len(prompt) >= after and text.startswith(prompt)
    if follows_prompt and text.startswith(until):
        return len(prompt), _end_of_turn(until, content)
    # The template renders a turn differently once others follow (reasoning is dropped from the history).
    after = len(prompt) if follows_prompt else _after_words(text, messages[index - 1], after)
    hits = [(text.find(words, after), words) for words in _possible_words(content)]
    start, words = min((hit for hit in hits if hit[0] >= 0), default=(-1, ""))
    if start < 0:
        raise UnsupportedError(
            f"The chat template does not show the assistant's words of message {index} as they are, so no loss mask "
            "can be made. Train the turns one by one, or use another chat template."
        )
    end = start + len(words)
    mark = until[until.rfind(words) + len(words) :].rstrip() if words in until else ""
    return after if follows_prompt else start, end + len(mark) if text.startswith(
        mark, end
    ) else end


def _after_words(text: str, message: Mapping[str, Any], after: int) -> int:
    words = str(message["content"]).strip()
    found = text.find(words, after)
    return after if found < 0 else found + len(words)


def _end_of_turn(until: str, content: str) -> int:
    """End of the turn without the line end that many templates put behind its end mark."""
    stripped = until.rstrip()
    return len(until) if stripped.endswith(content.rstrip()) else len(stripped)


def _possible_words(content: str) -> list[str]:
    words = [content.strip(), content.rpartition("</think>")[2].strip()]
    return [text for text in words if text]


def _encode_pieces(tokenizer: ChatTokenizer, text: str, cuts: list[int]) -> list[list[int]]:
    """Token ids of the text up to the last cut, in pieces.

    The pieces of the whole text's tokens where the cuts fall between tokens: then they are also what a
    sampler sees as its prompt. Otherwise each piece is encoded alone, as at sampling time.
    """
    bounds = [0, *cuts]
    ids = tokenizer.encode(text[: cuts[-1]], add_special_tokens=False)
    places = [0]
    for cut in cuts[:-1]:
        prefix = tokenizer.encode(text[:cut], add_special_tokens=False)
        if ids[: len(prefix)] != prefix:
            pairs = itertools.pairwise(bounds)
            return [tokenizer.encode(text[a:b], add_special_tokens=False) for a, b in pairs]
        places.append(len(prefix))
    places.append(len(ids))
    return [ids[a:b] for a, b in itertools.pairwise(places)]
