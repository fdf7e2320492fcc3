"""Batched sampling from a transformers model, for measuring ``nano`` without the service.

Plain and short on purpose: left padding, one cache, temperature and nothing else. Called by
``evaluate`` and ``simulate_demo``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer

STOPS = ("<|endoftext|>", "<|im_end|>")


@torch.inference_mode()
def complete(
    model: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    temperature: float,
    max_new_tokens: int = 80,
    batch_size: int = 128,
    seed: int = 0,
) -> list[str]:
    """Return one completion for each prompt, without its stop token; temperature 0 is greedy."""
    generator = torch.Generator().manual_seed(seed)
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(list(prompts))]
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
    texts = [""] * len(encoded)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = [encoded[row] for row in rows]
        produced = _generate(model, tokenizer, batch, temperature, max_new_tokens, generator)
        for row, ids in zip(rows, produced, strict=True):
            texts[row] = tokenizer.decode(ids, skip_special_tokens=False)
    return texts


def _generate(
    model: Any,
    tokenizer: Tokenizer,
    batch: Sequence[Sequence[int]],
    temperature: float,
    max_new_tokens: int,
    generator: torch.Generator,
) -> list[list[int]]:
    stops = {tokenizer.token_to_id(stop) for stop in STOPS}
    width = max(len(ids) for ids in batch)
    tokens_BT = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in batch])
    mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in batch])
    produced: list[list[int]] = [[] for _ in batch]
    running = set(range(len(batch)))
    cache = None
    for _ in range(max_new_tokens):
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -tokens_BT.shape[1] :]
        out = model(
            input_ids=tokens_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        next_B = _choose(out.logits[:, -1].float(), temperature, generator)
        for row, token in enumerate(next_B.tolist()):
            if row in running and token in stops:
                running.discard(row)
            elif row in running:
                produced[row].append(token)
        if not running:
            break
        tokens_BT = next_B[:, None]
        mask_BT = torch.cat([mask_BT, torch.ones_like(tokens_BT)], dim=1)
    return produced


def _choose(
    logits_BV: torch.Tensor, temperature: float, generator: torch.Generator
) -> torch.Tensor:
    if temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV = torch.softmax(logits_BV / temperature, -1)
    return torch.multinomial(probabilities_BV, 1, generator=generator)[:, 0]
