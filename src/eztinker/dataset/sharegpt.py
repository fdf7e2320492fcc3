"""ShareGPT data: conversations from JSON or JSON lines, rendered and tokenised for a model.

Loads, checks, counts, and makes training examples. What a conversation must be is in ``conversation.py``, where
its tokens count in ``rendering/supervised.py``. Users and recipes make it directly or through the registry.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eztinker.dataset.base import check_max_samples, register_dataset
from eztinker.dataset.conversation import ShareGPTConversation, dialect_of, read_conversation
from eztinker.dataset.rows import Row, read_rows
from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.grading.overlap import Similarity, grade_overlap
from eztinker.rendering.chat_tokenizer import as_chat_tokenizer
from eztinker.rendering.supervised import assistant_turns, supervised_example


@dataclass(frozen=True, slots=True)
class InvalidConversation:
    """A row that was left out: its file, line and the reason."""

    path: Path
    line: int
    reason: str


@register_dataset("sharegpt")
class ShareGPTDataset:
    """Conversations in the chat template of a model.

    A *turn* is one message, a system message included.

    Args:
        file_path: JSON array or JSON lines; rows of both dialects may be mixed.
        tokenizer: of the model to be trained, with a chat template: a transformers tokenizer or ours.
        max_length: most tokens of a training example; longer ones are shortened without losing the answer.
        min_length: conversations with fewer tokens (in the chat template) are left out. They are listed in
            ``invalid`` and counted as invalid, but are no error even when ``strict``.
        system_prompt: system turn for conversations that have none.
        strict: a conversation that breaks a rule is an error; else it is left out, counted and listed.
        max_samples: use at most this many rows (counted before any is left out); None means all.
        shuffle: order the rows by ``seed`` before ``max_samples`` are taken.
        seed: of the shuffle.
        similarity: how ``evaluate_answer`` compares a reply with the reference: ``word_f1`` or ``rouge_l``.
        correct_from: similarity in (0, 1] from which a reply counts as right.

    Attributes:
        stats: ``total_loaded`` (rows read) = ``valid_conversations`` + ``invalid_conversations``;
            ``total_turns`` and ``total_tokens`` (before shortening) of the valid ones; ``dialect_counts`` of
            all rows whose dialect can be told.
        invalid: the rows that were left out, as :class:`InvalidConversation`.

    Raises:
        NotFoundError: no such file.
        InvalidRequestError: a broken file or, when strict, a broken conversation, with file and line; no
            valid conversation at all; an argument out of range.
        UnsupportedError: the tokenizer has no chat template.
    """

    def __init__(
        self,
        file_path: str | Path,
        tokenizer: Any,
        max_length: int = 2048,
        min_length: int = 10,
        system_prompt: str | None = None,
        strict: bool = True,
        max_samples: int | None = None,
        shuffle: bool = False,
        seed: int = 42,
        *,
        similarity: Similarity = "word_f1",
        correct_from: float = 0.5,
    ) -> None:
        grade_overlap("", "", correct_from=correct_from, similarity=similarity)  # refuses bad ones
        self.similarity: Similarity = similarity
        self.correct_from = correct_from
        self.file_path = Path(file_path)
        check_max_samples(max_samples)
        _check_lengths(min_length, max_length)
        self.max_length = max_length
        self.min_length = min_length
        self.system_prompt = system_prompt
        self.strict = strict
        self._tokenizer = as_chat_tokenizer(tokenizer)
        self.invalid: list[InvalidConversation] = []
        self._conversations: list[ShareGPTConversation] = []
        self.stats: dict[str, Any] = {
            "total_loaded": 0,
            "valid_conversations": 0,
            "invalid_conversations": 0,
            "total_turns": 0,
            "total_tokens": 0,
            "dialect_counts": {"from_value": 0, "role_content": 0},
        }
        rows = _rows(self.file_path, is_strict=strict)
        if shuffle:
            random.Random(seed).shuffle(rows)  # noqa: S311  # an order, not a secret
        for row in rows[:max_samples]:
            self._load(row)
        if not self._conversations:
            raise InvalidRequestError(
                f"{self.file_path} has no valid conversation ({len(self.invalid)} rows were left out"
                + (f"; the first: {self.invalid[0].reason})." if self.invalid else ")."),
                field="file_path",
            )

    def _load(self, row: Row | InvalidConversation) -> None:
        self.stats["total_loaded"] += 1
        if isinstance(row, InvalidConversation):
            self._leave_out(row)
            return
        dialect = dialect_of(row.data)
        if dialect is not None:
            self.stats["dialect_counts"][dialect] += 1
        try:
            conversation = read_conversation(row.data, f"{row.path.stem}_{row.line}")
            conversation = conversation.with_system(self.system_prompt)
            text = self._text(conversation)  # a template may refuse what the rules allow
            num_tokens = len(self._tokenizer.encode(text, add_special_tokens=False))
        except InvalidRequestError as error:
            if self.strict:
                raise InvalidRequestError(
                    f"{row.where}: {error.message}. Mend the row, or pass strict=False to leave such rows out.",
                    field="file_path",
                ) from error
            self._leave_out(InvalidConversation(row.path, row.line, error.message))
            return
        if num_tokens < self.min_length:
            reason = f"{num_tokens} tokens, fewer than min_length {self.min_length}"
            self._leave_out(InvalidConversation(row.path, row.line, reason))
            return
        self._conversations.append(conversation)
        self.stats["valid_conversations"] += 1
        self.stats["total_turns"] += len(conversation.messages)
        self.stats["total_tokens"] += num_tokens

    def _leave_out(self, row: InvalidConversation) -> None:
        self.stats["invalid_conversations"] += 1
        self.invalid.append(row)

    def _text(self, conversation: ShareGPTConversation) -> str:
        return self._tokenizer.render_chat(conversation.as_messages(), add_generation_prompt=False)

    def __len__(self) -> int:
        return len(self._conversations)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Conversation ``index`` as ``id`` and ``messages`` (``role``, ``content``)."""
        conversation = self._conversations[index]
        return {"id": conversation.id, "messages": conversation.as_messages()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def get_conversation(self, index: int) -> ShareGPTConversation:
        """Conversation ``index`` itself."""
        return self._conversations[index]

    def get_conversation_turns(self, index: int) -> tuple[str, str, int]:
        """``(id, text in the model's chat template, number of turns)``."""
        conversation = self._conversations[index]
        return conversation.id, self._text(conversation), len(conversation.messages)

    def get_training_turn(self, index: int, turn: int = -1) -> tuple[str, str]:
        """``(prompt, answer)`` of one assistant turn.

        Args:
            index: the conversation.
            turn: which of the assistant's turns, from 0 or, negative, from the end.

        Returns:
            Everything before that turn in the chat template, the assistant's header included, so that a model
            continues it; and what the assistant said.
        """
        messages = self._conversations[index].as_messages()
        at = _turn_index(messages, turn)
        return self._tokenizer.render_chat(messages[:at]), messages[at]["content"]

    def tokenize_for_training(self, index: int, turn_idx: int | None = -1) -> dict[str, list[Any]]:
        """Arguments of ``client.forward_backward`` for a conversation.

        Args:
            index: the conversation.
            turn_idx: the assistant's turn to train, from 0 or, negative, from the end (-1: the last one): the
                example ends with it, and all before it is context without loss. None: all assistant turns.

        Returns:
            ``input_ids``; ``target_ids``, labels at the place of their token, -100 where there is no loss; and
            ``weights``, 1.0 on the assistant's tokens and the mark that ends its turn, else 0.0. At most
            ``max_length`` each and never without an answer token.
        """
        example = supervised_example(
            self._tokenizer,
            self._conversations[index].as_messages(),
            turn=turn_idx,
            max_length=self.max_length,
        )
        return example.as_dict()

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        """``(last user turn, prompt of the last assistant turn, what the assistant said)``."""
        prompt, answer = self.get_training_turn(index)
        return self._conversations[index].messages[-2].content, prompt, answer

    def evaluate_answer(
        self, generated_text: str, ground_truth: str, question: str = ""
    ) -> dict[str, Any]:
        """Likeness to the reference reply, for nobody can check free text exactly.

        Args:
            generated_text: model output; if it repeats the question first, that part is not counted.
            ground_truth: the reference reply.
            question: the last user turn.
        """
        if question and isinstance(generated_text, str):
            generated_text = generated_text.rpartition(question)[2]
        return grade_overlap(
            generated_text,
            ground_truth,
            correct_from=self.correct_from,
            similarity=self.similarity,
        ).as_dict()

    def export_to_jsonl(self, path: str | Path) -> int:
        """Write the valid conversations as ``{"id", "messages"}`` lines; returns how many.

        The file appears whole or not at all. Reading it again gives the same conversations.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            for conversation in self:
                file.write(json.dumps(conversation, ensure_ascii=False) + "\n")
        partial.replace(path)
        return len(self)


def _rows(path: Path, *, is_strict: bool) -> list[Row | InvalidConversation]:
    """The rows of a file, and in their places the lines that are none, unless these are an error."""
    if not path.is_file():
        raise NotFoundError(
            f"No conversation file at {path}: file_path must name a JSON or JSONL file.",
            code="dataset_not_found",
            field="file_path",
        )
    rows: list[Row | InvalidConversation] = []

    def on_bad(line: int, reason: str) -> None:
        rows.append(InvalidConversation(path, line, reason))

    for row in read_rows(path, None if is_strict else on_bad):
        rows.append(row)
    return rows


def _check_lengths(min_length: int, max_length: int) -> None:
    if max_length < 2:
        raise InvalidRequestError(
            f"max_length must be at least 2, got {max_length}.", field="max_length"
        )
    if not 0 <= min_length <= max_length:
        raise InvalidRequestError(
            f"min_length must be from 0 to max_length ({max_length}), got {min_length}.",
            field="min_length",
        )


def _turn_index(messages: list[dict[str, str]], turn: int) -> int:
    turns = assistant_turns(messages)
    if not -len(turns) <= turn < len(turns):
        raise InvalidRequestError(
            f"turn must be from {-len(turns)} to {len(turns) - 1}: the conversation has {len(turns)} assistant "
            f"turns, got {turn}.",
            field="turn",
        )
    return turns[turn]
