"""Records as supervised training data: token ids with loss on what is to be learned.

Conversations go through the model's chat template with loss on the assistant's turns (``rendering/supervised.py``);
texts get loss on the completion and the end token. Knows tokenizers and lengths; no files and no client. Called by
the recipes and ``eztinker data inspect``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from eztinker.dataset.preference import PreferencePair
from eztinker.dataset.records import ChatExample, Example, TextExample
from eztinker.errors import InvalidRequestError
from eztinker.rendering.chat_tokenizer import as_chat_tokenizer
from eztinker.rendering.supervised import SupervisedExample, supervised_example

LossOn = Literal["assistant", "last", "all"]


def supervise(
    tokenizer: Any, example: Example, *, max_length: int, loss_on: LossOn = "assistant"
) -> SupervisedExample:
    """Training data of one example.

    Args:
        tokenizer: of transformers, or ours.
        max_length: most tokens, at least 2; see ``supervised_example`` for what is cut. A text loses the beginning
            of its prompt, but keeps half of the room for it when the completion alone is too long.
        loss_on: ``assistant`` (every turn of it; the completion of a text), ``last`` (its last turn), or ``all``
            tokens.

    Raises:
        InvalidRequestError: nothing is left to learn.
        UnsupportedError: a conversation, and the tokenizer has no chat template.
    """
    if isinstance(example, PreferencePair):
        raise InvalidRequestError("a preference pair has no one answer to learn")
    if isinstance(example, ChatExample):
        turn = None if loss_on == "assistant" else -1
        made = supervised_example(
            as_chat_tokenizer(tokenizer), example.messages, turn=turn, max_length=max_length
        )
    else:
        made = _text_example(tokenizer, example, max_length)
    if loss_on == "all":
        return SupervisedExample(made.input_ids, [1.0] * len(made.input_ids))
    return made


def _text_example(tokenizer: Any, example: TextExample, max_length: int) -> SupervisedExample:
    prompt = encode_text(tokenizer, example.prompt) if example.prompt else []
    completion = list(tokenizer.encode(example.completion, add_special_tokens=not example.prompt))
    end = end_token(tokenizer)
    if end is not None and completion[-1:] != [end]:
        completion.append(end)
    if len(prompt) + len(completion) > max_length:
        room = min(len(prompt), max(max_length - len(completion), max_length // 2))
        prompt, completion = prompt[len(prompt) - room :], completion[: max_length - room]
    return SupervisedExample(prompt + completion, [0.0] * len(prompt) + [1.0] * len(completion))


def end_token(tokenizer: Any) -> int | None:
    """Id that ends a text, of a tokenizer of transformers or ours; None when it has none."""
    if hasattr(tokenizer, "eos_token_id"):
        return tokenizer.eos_token_id
    return next(iter(tokenizer.eos_token_ids), None)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that begins a sequence; a start token it was rendered with is not doubled."""
    start = getattr(tokenizer, "bos_token", None)
    has_start = bool(start) and text.startswith(start)
    return list(tokenizer.encode(text, add_special_tokens=not has_start))


def reply_example(
    tokenizer: Any, prompt: Sequence[Mapping[str, str]] | str, reply: str, *, max_length: int
) -> SupervisedExample:
    """A prompt with one reply; loss on the reply and the mark or token that ends it.

    Args:
        prompt: turns, rendered with the chat template; or a text that the reply continues.
    """
    if isinstance(prompt, str):
        return _text_example(tokenizer, TextExample(prompt, reply), max_length)
    messages = [*prompt, {"role": "assistant", "content": reply}]
    return supervised_example(
        as_chat_tokenizer(tokenizer), messages, turn=-1, max_length=max_length
    )


def reply_tokens(
    tokenizer: Any, prompt: Sequence[Mapping[str, str]] | str, reply: str, *, max_length: int
) -> list[int]:
    """Token ids of a prompt and a reply without an end, as a reward model reads them; the beginning is cut."""
    text = prompt if isinstance(prompt, str) else as_chat_tokenizer(tokenizer).render_chat(prompt)
    ids = encode_text(tokenizer, text) + list(tokenizer.encode(reply, add_special_tokens=False))
    return ids[-max_length:]
