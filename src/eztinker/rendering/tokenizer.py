"""The tokenizer of a base model: text and chats to token ids and back.

Light on purpose: the ``tokenizers`` library and Jinja, so that the server process and the client need neither
transformers nor torch. It gives the ids that transformers gives for the same folder; it knows no hub and no
model. The server, the sampler and the data sets use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError, NotFoundError, UnsupportedError
from eztinker.rendering.chat import render_template
from eztinker.rendering.token_pieces import TokenPieces
from eztinker.rendering.tokenizer_folder import TOKENIZER_FILES, TokenizerFolder


class Tokenizer:
    """Tokenizer of one model folder; immutable and safe to share between threads.

    Make it with :meth:`from_folder`.
    """

    def __init__(self, folder: TokenizerFolder) -> None:
        self._folder = folder
        self._backend = folder.backend

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Read the tokenizer files of a model folder.

        Takes a ``tokenizer.json``, or ``vocab.json`` with ``merges.txt`` (GPT-2 and Qwen2 families), and beside
        it ``tokenizer_config.json``, ``special_tokens_map.json``, ``added_tokens.json``,
        ``generation_config.json``, ``config.json`` and ``chat_template.jinja`` where present.

        Where ``tokenizer.json`` and the ``tokenizer_class`` of the configuration contradict each other,
        ``tokenizer.json`` holds.

        Raises:
            NotFoundError: no such folder, or no tokenizer in it (``code="tokenizer_not_found"``).
            UnsupportedError: only a SentencePiece vocabulary, or an unknown ``vocab.json`` family.
            InvalidRequestError: a file is damaged, or the files contradict each other.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise NotFoundError(
                f"No tokenizer folder at {folder}: give the folder of a model, with its tokenizer.json.",
                code="tokenizer_not_found",
            )
        return cls(TokenizerFolder.read(folder))

    def __repr__(self) -> str:
        return f"Tokenizer({str(self._folder.path)!r}, vocab_size={self.vocab_size})"

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; with ``add_special_tokens`` also the start (and end) token the model expects.

        Raises:
            InvalidRequestError: not text, or text that no encoding can carry (a lone surrogate).
        """
        if not isinstance(text, str):
            raise InvalidRequestError(
                f"text must be a string, got {type(text).__name__}.", field="text"
            )
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidRequestError(
                f"The text cannot be encoded: {error}. Half of a surrogate pair stands alone; decode the "
                "source as UTF-8 with errors='replace'.",
                field="text",
            ) from error

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids. An id that is no token (a padded row of the embedding) has no text.

        Blanks before punctuation are kept as the tokens have them (``clean_up_tokenization_spaces`` is not
        applied), so that decoding what was encoded gives the text back.

        Raises:
            InvalidRequestError: an id that is no integer of 32 bits.
        """
        try:
            return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        except (OverflowError, TypeError) as error:
            raise InvalidRequestError(
                f"ids must be a list of integers from 0 to {self.vocab_size - 1}: {error}.",
                field="ids",
            ) from error

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included: all ids are below it."""
        added = self._backend.get_added_tokens_decoder()
        return max(self._backend.get_vocab_size(with_added_tokens=True), max(added, default=-1) + 1)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that have no text in an answer."""
        added = self._backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    def token_bytes(self, token_id: int) -> bytes:
        """What one token writes, which may be half a character; nothing for an id that is no token."""
        return self._pieces.bytes_of(token_id)

    @cached_property
    def _pieces(self) -> TokenPieces:
        return TokenPieces(self._backend)

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end a generation: those of generation_config.json, then the tokenizer's own end token.

        ``config.json`` is asked only when neither names one. Empty when nothing does.
        """
        ids = _as_ids(self._folder.generation_config.get("eos_token_id"))
        own = self._special_id("eos_token")
        if own is not None:
            ids.append(own)
        return tuple(dict.fromkeys(ids or _as_ids(self._folder.model_config.get("eos_token_id"))))

    @cached_property
    def bos_token_id(self) -> int | None:
        """The start token; None when the model has none or its tokenizer says null."""
        return self._special_id("bos_token", fallback="bos_token_id")

    @cached_property
    def pad_token_id(self) -> int | None:
        """The padding token; None when there is none."""
        return self._special_id("pad_token", fallback="pad_token_id")

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """``bos_token``, ``eos_token``, … -> text, as far as the model has them."""
        return dict(self._folder.special_tokens)

    def _special_id(self, name: str, fallback: str | None = None) -> int | None:
        text = self._folder.special_tokens.get(name)
        if text is not None:
            return self._backend.token_to_id(text)
        if fallback is None or name in self._folder.config:  # an explicit null is an answer
            return None
        for config in (self._folder.generation_config, self._folder.model_config):
            for token_id in _as_ids(config.get(fallback)):
                return token_id
        return None

    @property
    def has_chat_template(self) -> bool:
        """Whether :meth:`render_chat` can work."""
        return "default" in self._folder.chat_templates

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **template_kwargs: Any,
    ) -> str:
        """Text of a conversation in the chat template of the model.

        Args:
            messages: ``{"role", "content"}`` objects.
            add_generation_prompt: end with the header of the assistant's turn.
            template_kwargs: variables of the template such as ``tools`` or ``enable_thinking``; one that the
                template does not read is refused.

        Raises:
            UnsupportedError: the model has no chat template.
            InvalidRequestError: the messages are malformed or the template refuses them.
        """
        templates = self._folder.chat_templates
        name = "tool_use" if template_kwargs.get("tools") and "tool_use" in templates else "default"
        if name not in templates:
            raise UnsupportedError(
                f"The model in {self._folder.path} has no chat template, so messages cannot be rendered. Send "
                "plain text as prompt, or put a chat_template.jinja into the folder.",
                code="no_chat_template",
            )
        return render_template(
            templates[name],
            messages,
            add_generation_prompt=add_generation_prompt,
            special_tokens=self._folder.special_tokens,
            **template_kwargs,
        )

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **template_kwargs: Any,
    ) -> list[int]:
        """Token ids of :meth:`render_chat`; the template writes the special tokens, so none are added."""
        text = self.render_chat(messages, add_generation_prompt, **template_kwargs)
        return self.encode(text, add_special_tokens=False)

    def files(self) -> list[Path]:
        """The files that make this tokenizer, to be copied or handed to a client."""
        paths = (self._folder.path / name for name in TOKENIZER_FILES)
        return [path for path in paths if path.is_file()]


def _as_ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(token_id) for token_id in (value if isinstance(value, list) else [value])]
