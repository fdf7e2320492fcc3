"""How a finance question becomes a prompt of a model, and how its output is read back whole.

A chat template may open the think block itself (as DeepSeek-R1's does); then the output begins inside it, and the opening
tag is put back before anyone looks. Knows no stage. Called by distillation, training and evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eztinker.errors import UnsupportedError
from eztinker.rendering.finance import finance_request
from eztinker.rl.candidates import Candidate, CandidateParams, Example, encode_prompt, whole_text

THINK = "<think>"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as a prompt.

    Attributes:
        prompt: text with the chat template applied and the assistant's turn opened.
        opening: what the prompt holds of the output already: ``<think>``, or nothing.
    """

    prompt: str
    opening: str


def ask(tokenizer: Any, question: str, *, is_reminder: bool = False) -> Asked:
    """The prompt of a question.

    Raises:
        UnsupportedError: the model has no chat template (``code="no_chat_template"``).
    """
    return opened(tokenizer, finance_request(question, is_reminder=is_reminder))


def opened(tokenizer: Any, request: str) -> Asked:
    """One user turn with the assistant's turn opened; errors as in ``ask``."""
    if not getattr(tokenizer, "chat_template", None):
        raise UnsupportedError(
            "The model has no chat template, and finance questions are asked through one. Choose an instruct or chat "
            "model.",
            code="no_chat_template",
            field="model_path",
        )
    prompt: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": request}], tokenize=False, add_generation_prompt=True
    )
    return Asked(prompt, THINK if prompt.rstrip().endswith(THINK) else "")


def output_text(tokenizer: Any, candidate: Candidate, asked: Asked) -> str:
    """What a model wrote, tags that are special tokens included, with the opening that the prompt held."""
    return asked.opening + whole_text(tokenizer, candidate)


def room_for_answers(
    tokenizer: Any, asked: Iterable[Asked], max_new_tokens: int, max_length: int | None
) -> tuple[list[int], int]:
    """Places of the prompts that fit, and the tokens that every answer may have.

    An answer may have ``max_new_tokens``, or half of ``max_length`` where that is less; a prompt fits when it leaves so
    many. The same for any choice of prompts: what is asked again after an interruption gets the same answer.
    """
    lengths = [len(encode_prompt(tokenizer, one.prompt, "")) for one in asked]
    if max_length is None:
        return list(range(len(lengths))), max_new_tokens
    room = min(max_new_tokens, max_length // 2)
    return [i for i, length in enumerate(lengths) if length + room <= max_length], room


def examples(asked: Sequence[Asked], places: Iterable[int]) -> list[Example]:
    """Some of the prompts in the form that sampling takes, under their places."""
    return [Example(i, "", asked[i].prompt, "") for i in places]


def answer_params(
    max_new_tokens: int, temperature: float, top_p: float, num_samples: int = 1
) -> CandidateParams:
    """How to sample answers that end with the model's own end token."""
    return CandidateParams(
        num_samples, temperature, max_new_tokens, stop=(), top_p=top_p if temperature else 1.0
    )
