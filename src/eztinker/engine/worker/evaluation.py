"""Scoring responses: mean log-probability of each under pinned weights.

``score`` is a generator that yields after every micro-batch. It writes no responses itself: items
without one are completed by ``jobs.py`` through the sampler first. Knows no messages.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
import torch

from eztinker.engine.worker.attention import Layout, PackedLayout, PaddedLayout
from eztinker.engine.worker.data_checks import check_token_ids
from eztinker.engine.worker.decoder_base import Decoder
from eztinker.engine.worker.lora import AdapterWeights
from eztinker.errors import InvalidRequestError
from eztinker.ops.logprobs import target_logprobs
from eztinker.ops.packing import pack
from eztinker.types.operations import EvaluationItem, EvaluationResult


def check_items(decoder: Decoder, items: Sequence[EvaluationItem], temperature: float) -> None:
    """Refuse what cannot be scored.

    Raises:
        InvalidRequestError: no items, an empty prompt, too long, ids outside the vocabulary, or a
            temperature of 0.
    """
    if not items:
        raise InvalidRequestError("The request holds nothing to evaluate.", field="batches")
    if temperature <= 0:
        raise InvalidRequestError(
            f"temperature must be greater than 0 to score responses, got {temperature:g}.",
            field="temperature",
        )
    for number, item in enumerate(items):
        length = len(item.prompt_tokens) + len(item.response_tokens)
        if len(item.prompt_tokens) == 0 or length > decoder.context_length:
            raise InvalidRequestError(
                f"batches[{number}]: expected a prompt of at least one token and, with the response, at "
                f"most {decoder.context_length}; got {len(item.prompt_tokens)} and {length}.",
                field="batches",
            )
        for tokens in (item.prompt_tokens, item.response_tokens):
            check_token_ids(tokens, decoder.vocab_size, f"batches[{number}]:")


@torch.no_grad()
def score_batch(
    decoder: Decoder,
    adapter: AdapterWeights,
    items: Sequence[EvaluationItem],
    temperature: float,
) -> list[float]:
    """Mean log softmax(logits / temperature) over each item's response (one token at least)."""
    packing = pack([np.concatenate([i.prompt_tokens, i.response_tokens[:-1]]) for i in items])
    tokens = torch.from_numpy(packing.tokens_BT).to(decoder.device)
    layout: Layout = PackedLayout(packing.lengths) if packing.is_packed else PaddedLayout()
    hidden = decoder.hidden(
        tokens,
        torch.from_numpy(packing.positions_BT).to(decoder.device),
        layout,
        [(adapter, 0, tokens.numel())],
    )
    index = np.concatenate(
        [
            np.arange(start + len(item.prompt_tokens) - 1, start + length)
            for item, start, length in zip(items, packing.starts, packing.lengths, strict=True)
        ]
    )
    targets = np.concatenate([item.response_tokens for item in items]).astype(np.int64)
    p = target_logprobs(
        hidden.reshape(-1, hidden.shape[-1])[torch.from_numpy(index).to(decoder.device)],
        torch.from_numpy(targets).to(decoder.device),
        replace(decoder.head(adapter), temperature=temperature),
    )
    parts = p.cpu().split([len(item.response_tokens) for item in items])
    return [float(part.double().mean()) for part in parts]


def score(
    decoder: Decoder,
    adapter: AdapterWeights,
    items: Sequence[EvaluationItem],
    temperature: float,
    micro_batches: Sequence[Sequence[int]],
) -> Generator[None, None, EvaluationResult]:
    """Score all items, one micro-batch per turn; ``scores`` are the mean losses."""
    means = [0.0] * len(items)
    for batch in micro_batches:
        values = score_batch(decoder, adapter, [items[i] for i in batch], temperature)
        for i, value in zip(batch, values, strict=True):
            means[i] = value
        yield
    return EvaluationResult(
        scores=[-value for value in means],
        log_probs=means,
        num_tokens=[len(item.response_tokens) for item in items],
    )
