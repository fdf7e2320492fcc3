"""From bodies of the OpenAI wire to ``Sample``: prompts as tokens, parameters, and what is refused.

Knows the tokenizer and no run. Called by ``routes/openai.py``; tokenizing belongs in a thread.
"""

from __future__ import annotations

import numpy as np

from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.models.openai import ChatCompletionRequest, CompletionRequest
from eztinker.rendering.tokenizer import Tokenizer
from eztinker.service import bounds
from eztinker.types.operations import Sample
from eztinker.types.records import BaseModelRecord
from eztinker.types.sampling import SamplingParams, WeightsRef

DEFAULT_COMPLETION_TOKENS = 16
Body = ChatCompletionRequest | CompletionRequest

_WAY_OUT = {
    "response_format": "Ask for the format in the messages, and check the answer yourself.",
    "tools": "Describe the tools in the messages, and read the calls from the text yourself.",
    "functions": "Describe them in the messages, and read the calls from the text yourself.",
    "reasoning_effort": "Set what the chat template reads, in chat_template_kwargs.",
    "best_of": "Ask for n answers and choose among them.",
    "store": "Every answer is kept as a job: its id is that of the answer without the prefix.",
}


def check_supported(body: Body) -> None:
    """Refuse, by name, fields that ask for what is not here, and fields that need another.

    Raises:
        UnsupportedError: understood, not implemented.
        InvalidRequestError: fields that contradict each other.
    """
    for name, nothing in body.NOTHING_ASKED.items():
        value = getattr(body, name)
        if value is not None and value not in nothing:
            raise _unsupported(name)
    options = body.stream_options
    if options is not None and not body.stream:
        raise InvalidRequestError(
            "stream_options: given without stream. Send stream: true, or leave it out.",
            field="stream_options",
        )
    if options is not None and options.include_obfuscation:
        raise _unsupported("stream_options.include_obfuscation")
    if isinstance(body, ChatCompletionRequest):
        _check_chat(body)
    else:
        _check_completion(body)


def _check_chat(body: ChatCompletionRequest) -> None:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequestError(
            "top_logprobs: given without logprobs. Send logprobs: true.", field="top_logprobs"
        )
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequestError(
            f"max_tokens: {old}, and max_completion_tokens: {new}, which means the same. Send one.",
            field="max_tokens",
        )


def _check_completion(body: CompletionRequest) -> None:
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise _unsupported("best_of")
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequestError(
            "max_tokens: expected at least 1, got 0. Only with echo: true there is something to answer.",
            field="max_tokens",
        )


def _unsupported(name: str) -> UnsupportedError:
    way_out = _WAY_OUT.get(name, "Leave it out.")
    return UnsupportedError(f"{name}: not implemented here. {way_out}", field=name)


# Prompts ------------------------------------------------------------------------------------------


def chat_operation(
    body: ChatCompletionRequest,
    weights: WeightsRef,
    base: BaseModelRecord,
    tokenizer: Tokenizer,
    seed: int,
) -> Sample:
    """The operation that a chat request asks for.

    Raises:
        UnsupportedError: the model has no chat template, or a message holds more than text.
        InvalidRequestError: messages that the template refuses, or that fill the context.
    """
    messages = [message.model_dump(exclude_none=True) for message in body.messages]
    for message in messages:
        if message["role"] == "developer":
            message["role"] = "system"
    tokens = tokenizer.encode_chat(messages, **(body.chat_template_kwargs or {}))
    prompt = _checked(tokens, "messages", base)
    max_tokens = body.max_completion_tokens or body.max_tokens
    if max_tokens is None:
        max_tokens = max(1, base.context_length - len(tokens))
    top = (body.top_logprobs or 0) if body.logprobs else 0
    return _operation(body, weights, base, prompt, "messages", max_tokens, top, seed)


def completion_operations(
    body: CompletionRequest,
    weights: WeightsRef,
    base: BaseModelRecord,
    tokenizer: Tokenizer,
    seed: int,
) -> list[Sample]:
    """The operations, one for each prompt, that a completion request asks for."""
    given = body.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        prompts = [("prompt", given)]
    else:
        prompts = [(f"prompt[{index}]", entry) for index, entry in enumerate(given)]
    max_tokens = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    operations = []
    for field, entry in prompts:
        tokens = tokenizer.encode(entry) if isinstance(entry, str) else entry
        prompt = _checked(tokens, field, base)  # type: ignore[arg-type]
        operation = _operation(
            body, weights, base, prompt, field, max_tokens, body.logprobs or 0, seed
        )
        operations.append(operation)
    return operations


def _checked(tokens: list[int], field: str, base: BaseModelRecord) -> np.ndarray:
    bounds.check_length(len(tokens), field=field, base=base)
    try:
        prompt = np.array(tokens, dtype=np.int64)
    except OverflowError:
        raise InvalidRequestError(
            f"{field}: contains a number beyond 64 bits, which is no token id.",
            code="unknown_token",
            field=field,
        ) from None
    bounds.check_not_empty(prompt, field=field)
    bounds.check_tokens(prompt, field=field, base=base)
    return prompt.astype(np.int32)


def _operation(
    body: Body,
    weights: WeightsRef,
    base: BaseModelRecord,
    prompt: np.ndarray,
    field: str,
    max_tokens: int,
    num_top: int,
    seed: int,
) -> Sample:
    bounds.check_length(len(prompt), field=field, base=base, new_tokens=max_tokens)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    top_k = body.top_k if body.top_k and body.top_k < base.vocab_size else -1
    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=top_k,
        seed=seed,
        stop=stop,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
    )
    echoes = isinstance(body, CompletionRequest) and bool(body.echo)
    scores_prompt = echoes and (body.logprobs is not None or max_tokens == 0)
    return Sample(
        weights=weights,
        prompt_tokens=prompt,
        params=params,
        num_samples=body.n or 1,
        prompt_logprobs=scores_prompt,
        topk_prompt_logprobs=num_top if scores_prompt else 0,
        topk_sample_logprobs=num_top,
    )
