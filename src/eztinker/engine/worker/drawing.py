"""The next tokens of rows: what their requests ask of the logits, and what is drawn from them.

How a draw is computed is ``ops/sampling.py``'s matter. Knows no model and no cache. Called by
``sampler.py`` and ``batch.py``.

Axes: R rows, S steps, V vocabulary.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.worker.rows import Row
from eztinker.ops.sampling import RowParams, draw, penalise, uniforms


def draw_next(
    rows: list[Row], logits_RV: Tensor, params: RowParams, numbers_R: Tensor
) -> tuple[list[int], list[float]]:
    """The next token of every row and its log-probability; likeliest tokens go to rows that want them.

    Args:
        rows: as they are before.
        logits_RV: float32; overwritten.
        params: of the rows.
        numbers_R: their random numbers.
    """
    _penalise(rows, logits_RV)
    tokens_R, logprobs_R = draw(logits_RV, params, numbers_R)
    _note_top_logprobs(rows, logits_RV, tokens_R, logprobs_R)
    return tokens_R.tolist(), logprobs_R.tolist()


def draw_first(rows: list[Row], logits_RV: Tensor) -> tuple[list[int], list[float]]:
    """``draw_next`` of rows that are in no batch yet."""
    device = logits_RV.device
    numbers_R = torch.from_numpy(row_uniforms(rows)[0]).to(device)
    return draw_next(rows, logits_RV, row_params(rows, logits_RV.shape[1], device), numbers_R)


def _penalise(rows: list[Row], logits_RV: Tensor) -> None:
    """Take the penalties of rows that ask for any from the logits of what they hold, in place."""
    penalised = [i for i, row in enumerate(rows) if row.request.operation.params.is_penalised]
    if not penalised:
        return
    held = [Counter(rows[i].tokens) for i in penalised]
    params = [rows[i].request.operation.params for i in penalised]
    penalise(
        logits_RV,
        [i for i, counts in zip(penalised, held, strict=True) for _ in counts],
        [token for counts in held for token in counts],
        [
            p.presence_penalty + p.frequency_penalty * number
            for p, counts in zip(params, held, strict=True)
            for number in counts.values()
        ],
    )


def _note_top_logprobs(
    rows: list[Row], scaled_RV: Tensor, tokens_R: Tensor, logprobs_R: Tensor
) -> None:
    """Remember, for rows that want it, the likeliest next tokens.

    Their log-probabilities are reckoned from the drawn token's, so that it has the same one in both places.

    Args:
        scaled_RV: logits after the temperature, as ``draw`` leaves them.
        tokens_R, logprobs_R: what was drawn.
    """
    wanting = [i for i, row in enumerate(rows) if row.request.operation.topk_sample_logprobs]
    if not wanting:
        return
    logits = scaled_RV[wanting]
    most = max(rows[i].request.operation.topk_sample_logprobs for i in wanting)
    top = logits.topk(min(most, logits.shape[1]), dim=-1)
    drawn = logits.gather(1, tokens_R[wanting, None])
    values = ((top.values - drawn) + logprobs_R[wanting, None]).tolist()
    for i, ids, logprobs in zip(wanting, top.indices.tolist(), values, strict=True):
        k = rows[i].request.operation.topk_sample_logprobs
        rows[i].topk_ids.append(ids[:k])
        rows[i].topk_logprobs.append(logprobs[:k])


def row_params(rows: list[Row], vocab_size: int, device: torch.device) -> RowParams:
    """Drawing parameters of rows."""
    wanted = [row.request.operation.params for row in rows]
    return RowParams.build(
        [p.temperature for p in wanted],
        [p.top_k for p in wanted],
        [p.top_p for p in wanted],
        vocab_size,
        device,
    )


def row_uniforms(rows: list[Row], num_steps: int = 1) -> np.ndarray:
    """The random numbers [S, R] of the rows' next tokens."""
    seeds_R = np.array([row.request.operation.params.seed % 2**64 for row in rows], np.uint64)
    samples_R = np.array([row.sample for row in rows], np.uint64)
    indices_R = np.array([len(row.tokens) for row in rows], np.uint64)
    steps_S1 = np.arange(num_steps, dtype=np.uint64)[:, None]
    return uniforms(seeds_R, samples_R, indices_R + steps_S1)
