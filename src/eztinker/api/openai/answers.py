"""Answers of the OpenAI wire as plain dictionaries: whole ones, and the chunks of a stream.

Called by ``routes/openai.py`` and ``streams.py``; knows no service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eztinker.api.openai.choices import Choice
from eztinker.models.openai import ChatCompletionRequest, CompletionRequest
from eztinker.rendering.tokenizer import Tokenizer
from eztinker.types.operations import Sample, SampleResult

Body = ChatCompletionRequest | CompletionRequest


@dataclass(frozen=True, slots=True)
class Asked:
    """One request on its way to its answer.

    Attributes:
        body: as it came.
        operations: one for each prompt.
        job_ids: of the jobs they became.
        tokenizer: of the model.
        created_at_s: when the first job was accepted.
    """

    body: Body
    operations: list[Sample]
    job_ids: list[str]
    tokenizer: Tokenizer
    created_at_s: float

    @property
    def is_chat(self) -> bool:
        """A chat, not a completion."""
        return isinstance(self.body, ChatCompletionRequest)

    @property
    def echoes(self) -> bool:
        """Answers begin with their prompts."""
        return isinstance(self.body, CompletionRequest) and bool(self.body.echo)

    def choices(self) -> list[list[Choice]]:
        """Fresh choices, prompt by prompt."""
        num = self.operations[0].num_samples
        return [
            [
                Choice(self.body, operation, self.tokenizer, prompt * num + sample)
                for sample in range(num)
            ]
            for prompt, operation in enumerate(self.operations)
        ]

    def head(self, *, is_chunk: bool) -> dict[str, Any]:
        """What every answer and every chunk begins with."""
        prefix, kind = (
            ("chatcmpl", "chat.completion") if self.is_chat else ("cmpl", "text_completion")
        )
        return {
            "id": f"{prefix}-{self.job_ids[0]}",
            "object": f"{kind}.chunk" if is_chunk and self.is_chat else kind,
            "created": int(self.created_at_s),
            "model": self.body.model,
            "system_fingerprint": None,
        }


def whole_answer(asked: Asked, results: list[SampleResult]) -> dict[str, Any]:
    """The answer to a request that is not streamed. Reads every token, so call it in a thread."""
    choices = []
    for operation, result, row in zip(asked.operations, results, asked.choices(), strict=True):
        for choice, sequence in zip(row, result.sequences, strict=True):
            parts = [choice.echo(operation, result, asked.tokenizer)] if asked.echoes else []
            if operation.params.max_tokens:
                parts.append(choice.finish(sequence))
            text = "".join(part for part, _ in parts)
            logprobs = choice.join_logprobs([told for _, told in parts])
            content = _content(text) if asked.is_chat else {"text": text}
            choices.append(
                {
                    "index": choice.index,
                    **content,
                    "logprobs": logprobs,
                    "finish_reason": sequence.stop_reason,
                }
            )
    head = asked.head(is_chunk=False)
    # Which weights answered: they are those of the same name and the same number of steps.
    head["system_fingerprint"] = fingerprint(results)
    return {**head, "choices": choices, "usage": usage(results)}


def _content(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text, "refusal": None}}


def fingerprint(results: list[SampleResult]) -> str:
    """Optimizer steps behind the weights that answered."""
    return f"step-{results[0].step}"


def usage(results: list[SampleResult]) -> dict[str, int]:
    """Tokens read and drawn; a prompt counts once however many answers it has."""
    num_prompt = sum(result.num_prompt_tokens for result in results)
    num_drawn = sum(len(s.tokens) for result in results for s in result.sequences)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_drawn,
        "total_tokens": num_prompt + num_drawn,
    }


def chunk_choice(
    asked: Asked,
    choice: Choice,
    text: str,
    logprobs: Any,
    *,
    role: bool = False,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    """One entry of a chunk's ``choices``."""
    entry: dict[str, Any] = {"index": choice.index}
    if asked.is_chat:
        delta: dict[str, Any] = {"role": "assistant"} if role else {}
        if text or role:
            delta["content"] = text
        entry["delta"] = delta
    else:
        entry["text"] = text
    return {**entry, "logprobs": logprobs, "finish_reason": finish_reason}
