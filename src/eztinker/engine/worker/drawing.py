"""The next tokens of rows: what their requests ask of the logits, and what is drawn from them.

How a draw is computed is ``ops/sampling.py``'s matter. Knows no model and no cache. Called by
``sampler.py`` and ``batch.py``.

Axes: R rows, S steps, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.worker.rows import Row
from eztinker.ops.sampling import Penalties, RowParams, draw, penalise, uniforms


@dataclass(frozen=True, slots=True)
class Wishes:
    """What rows ask of their next draw; tensors on the device of the logits.

    Made before the logits are computed: whoever copies something to a device that works waits for it.

    Attributes:
        params: how each row is drawn.
        numbers_R: the rows' random numbers.
        penalties: of the rows that ask for any; None where none does.
        wanting, wanting_W: rows that want to know the likeliest tokens; the tensor is None where none does.
    """

    params: RowParams
    numbers_R: Tensor
    penalties: Penalties | None
    wanting: list[int]
    wanting_W: Tensor | None

    @classmethod
    def of(cls, rows: list[Row], params: RowParams, numbers_R: Tensor) -> Wishes:
        """Those of rows as they are before the draw."""
        device = numbers_R.device
        wanting = [i for i, row in enumerate(rows) if row.request.operation.topk_sample_logprobs]
        wanting_W = torch.tensor(wanting, device=device) if wanting else None
        return cls(params, numbers_R, _penalties(rows, device), wanting, wanting_W)


def draw_next(rows: list[Row], logits_RV: Tensor, wishes: Wishes) -> tuple[list[int], list[float]]:
    """The next token of every row and its log-probability; likeliest tokens go to rows that want them.

    Args:
        rows: as they are before.
        logits_RV: float32; overwritten.
        wishes: of the rows.
    """
    if wishes.penalties is not None:
        penalise(logits_RV, wishes.penalties)
    drawn = draw(logits_RV, wishes.params, wishes.numbers_R)
    if wishes.wanting_W is None:
        tokens, logprobs = _on_host(*drawn)
        return tokens, logprobs
    most = max(rows[i].request.operation.topk_sample_logprobs for i in wishes.wanting)
    top = _likeliest(logits_RV, *drawn, wishes.wanting_W, most)
    tokens, logprobs, ids, values = _on_host(*drawn, *top)
    for i, row_ids, row_values in zip(wishes.wanting, ids, values, strict=True):
        k = rows[i].request.operation.topk_sample_logprobs
        rows[i].topk_ids.append(row_ids[:k])
        rows[i].topk_logprobs.append(row_values[:k])
    return tokens, logprobs


def draw_first(rows: list[Row], logits_RV: Tensor) -> tuple[list[int], list[float]]:
    """``draw_next`` of rows that are in no batch yet."""
    device = logits_RV.device
    numbers_R = torch.from_numpy(row_uniforms(rows)[0]).to(device)
    params = row_params(rows, logits_RV.shape[1], device)
    return draw_next(rows, logits_RV, Wishes.of(rows, params, numbers_R))


def _penalties(rows: list[Row], device: torch.device) -> Penalties | None:
    """What rows that ask for penalties want taken from the logits of what they hold."""
    penalised = [i for i, row in enumerate(rows) if row.request.operation.params.is_penalised]
    if not penalised:
        return None
    held = [Counter(rows[i].tokens) for i in penalised]
    params = [rows[i].request.operation.params for i in penalised]
    return Penalties.build(
        [i for i, counts in zip(penalised, held, strict=True) for _ in counts],
        [token for counts in held for token in counts],
        [
            p.presence_penalty + p.frequency_penalty * number
            for p, counts in zip(params, held, strict=True)
            for number in counts.values()
        ],
        device,
    )


def _likeliest(
    scaled_RV: Tensor, tokens_R: Tensor, logprobs_R: Tensor, wanting_W: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """The likeliest next tokens of some rows, and their log-probabilities.

    These are reckoned from the drawn token's, so that it has the same one in both places.

    Args:
        scaled_RV: logits after the temperature, as ``draw`` leaves them.
        tokens_R, logprobs_R: what was drawn.
        wanting_W: the rows.
        most: how many.
    """
    logits = scaled_RV[wanting_W]
    top = logits.topk(min(most, logits.shape[1]), dim=-1)
    drawn = logits.gather(1, tokens_R[wanting_W, None])
    return top.indices, (top.values - drawn) + logprobs_R[wanting_W, None]


def _on_host(*tensors: Tensor) -> list[list[Any]]:
    """Numbers of tensors; those of a device in one copy, as each is waited for.

    float64 holds both ids and float32 exactly.
    """
    if tensors[0].device.type == "cpu":
        return [tensor.tolist() for tensor in tensors]
    joined = torch.cat([tensor.flatten().double() for tensor in tensors]).cpu()
    parts = joined.split([tensor.numel() for tensor in tensors])
    return [
        part.view(tensor.shape).to(tensor.dtype).tolist()
        for part, tensor in zip(parts, tensors, strict=True)
    ]


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
