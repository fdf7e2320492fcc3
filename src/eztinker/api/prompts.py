"""From a wire sampling request to ``Sample``: the prompt as tokens, the stops, the parameters.

Knows the tokenizer but no run: whose weights answer is decided by ``routes/sampling.py``, its caller.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np

from eztinker.errors import InvalidRequestError
from eztinker.models import api as wire
from eztinker.rendering.tokenizer import Tokenizer
from eztinker.service import bounds
from eztinker.types.operations import Sample
from eztinker.types.records import BaseModelRecord
from eztinker.types.sampling import SamplingParams, WeightsRef

_SEED_MASK = 2**31 - 1


def chosen_seed(seed: int | None, idempotency_key: str | None) -> int:
    """The caller's seed, or a fresh one of 31 bits.

    A request sent again under the same key gets the same seed, so that it is the same operation.
    """
    if seed is not None:
        return seed
    if idempotency_key is None:
        return secrets.randbits(31)
    digest = hashlib.sha256(idempotency_key.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") & _SEED_MASK


def sample(
    body: wire.SampleRequest,
    *,
    weights: WeightsRef,
    base: BaseModelRecord,
    tokenizer: Tokenizer,
    seed: int,
) -> Sample:
    """The operation that a sampling request asks for. Tokenizes, so call it in a thread.

    Raises:
        InvalidRequestError: no prompt, two prompts, or one that is empty, unknown or too long.
        UnsupportedError: messages for a model without a chat template.
    """
    field, ids, text = _prompt(body, tokenizer)
    bounds.check_length(len(ids), field=field, base=base, new_tokens=body.max_new_tokens)
    tokens = _as_array(ids, field)
    bounds.check_tokens(tokens, field=field, base=base)
    stop, stop_token_ids = _stops(body.stop)
    top_k = body.top_k if 0 < body.top_k < base.vocab_size else -1
    params = SamplingParams(
        max_tokens=body.max_new_tokens,
        temperature=body.temperature if body.do_sample else 0.0,
        top_p=body.top_p,
        top_k=top_k,
        seed=seed,
        stop=stop,
        stop_token_ids=stop_token_ids,
    )
    return Sample(
        weights=weights,
        prompt_tokens=tokens.astype(np.int32),
        params=params,
        num_samples=body.num_samples,
        topk_prompt_logprobs=body.topk_prompt_logprobs,
        prompt_text=text,
    )


def _prompt(body: wire.SampleRequest, tokenizer: Tokenizer) -> tuple[str, list[int], str | None]:
    """Field name, token ids and, unless the caller sent ids, the text that they are."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequestError(
            "prompt: expected exactly one of prompt (a text or token ids) and messages (a conversation), got "
            f"{'neither' if body.prompt is None else 'both'}.",
            field="prompt",
        )
    prompt = body.prompt if body.messages is None else body.messages
    field = "prompt" if body.messages is None else "messages"
    if isinstance(prompt, str):
        return field, _encode(tokenizer, prompt, special=True), prompt
    messages = [entry for entry in prompt or () if isinstance(entry, wire.ChatMessage)]
    if messages:
        text = tokenizer.render_chat([m.model_dump(exclude_unset=True) for m in messages])
        return field, _encode(tokenizer, text, special=False), text
    return field, [entry for entry in prompt or () if isinstance(entry, int)], None


def _encode(tokenizer: Tokenizer, text: str, *, special: bool) -> list[int]:
    ids = tokenizer.encode(text, add_special_tokens=special)
    if not ids:
        raise InvalidRequestError(
            "prompt: this text has no tokens. Send at least one character.", field="prompt"
        )
    return ids


def _as_array(ids: list[int], field: str) -> np.ndarray:
    try:
        return np.array(ids, dtype=np.int64)
    except OverflowError:
        raise InvalidRequestError(
            f"{field}: contains a number beyond 64 bits, which is no token id. Send ids of this model's "
            "tokenizer.",
            code="unknown_token",
            field=field,
        ) from None


def _stops(
    stop: str | list[str] | list[int] | None,
) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Stop strings beside the model's end tokens, or token ids instead of them."""
    if not stop:
        return (), None
    if isinstance(stop, str):
        return (stop,), None
    texts = tuple(entry for entry in stop if isinstance(entry, str))
    if texts:
        return texts, None
    return (), tuple(entry for entry in stop if isinstance(entry, int))
