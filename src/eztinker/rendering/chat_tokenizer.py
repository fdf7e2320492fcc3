"""One face for the tokenizers that users hold: ours, or one of transformers.

Data sets render chats and count tokens through it and care no further whose tokenizer it is. It imports
neither transformers nor torch; it only asks what an object can do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from eztinker.errors import EZTinkerError, InvalidRequestError, UnsupportedError


class ChatTokenizer(Protocol):
    """What rendering a training text needs."""

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """Text of a conversation in the model's chat template."""
        ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        ...


class _TransformersTokenizer:
    """A tokenizer of transformers behind the same two methods."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        if not getattr(self._tokenizer, "chat_template", None):
            raise UnsupportedError(
                "This tokenizer has no chat template, so conversations cannot be rendered. Use the tokenizer of "
                "an instruct model, or set tokenizer.chat_template.",
                code="no_chat_template",
            )
        try:
            return self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except EZTinkerError:
            raise
        except Exception as error:  # a template may raise anything on messages it does not expect
            raise InvalidRequestError(
                f"The chat template of this tokenizer refused the messages: {error}.",
                code="chat_template_error",
                field="messages",
            ) from error

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))


def as_chat_tokenizer(tokenizer: Any) -> ChatTokenizer:
    """Wrap what a user passed as ``tokenizer``.

    Raises:
        InvalidRequestError: neither an ``eztinker.rendering.tokenizer.Tokenizer`` nor a transformers tokenizer.
    """
    if hasattr(tokenizer, "render_chat") and hasattr(tokenizer, "encode"):
        return tokenizer
    if hasattr(tokenizer, "apply_chat_template") and hasattr(tokenizer, "encode"):
        return _TransformersTokenizer(tokenizer)
    raise InvalidRequestError(
        "tokenizer must be a transformers tokenizer (AutoTokenizer.from_pretrained(…), client.get_tokenizer()) or "
        f"an eztinker Tokenizer, got {type(tokenizer).__name__}.",
        field="tokenizer",
    )
