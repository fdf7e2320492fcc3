"""What a model says about a prompt that it reads: log-probabilities of its tokens and of others.

Pure functions of hidden states and the head; they know no cache and no batch. Called by ``ready_prompts.py``
once per request. Log-probabilities are those of the plain distribution, whatever the temperature.

Axes: T positions of the prompt, D hidden size, K alternatives, V vocabulary, N scored positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eztinker.ops.logprobs import Head, target_logprobs, top_logprobs
from eztinker.ops.sampling import RowParams, draw, uniforms
from eztinker.types.operations import Sample

_NO_LOGPROB = -99999.0
_CHUNK_ELEMENTS = 2**24
_ALTERNATIVES = 2**32
"""Keeps the random numbers of alternatives apart from those of samples."""


@dataclass(frozen=True, slots=True)
class PromptScores:
    """What was asked for; the rest is None.

    Attributes:
        logprobs: float32 [T], NaN at position 0 and where nothing was asked.
        topk_ids, topk_logprobs: [T, K]; id 0 and -99999 where nothing was asked.
        target_logprobs: float32 [T - 1, K], 0 where nothing was asked.
        alternative_ids, alternative_logprobs: [T - 1, K] draws at every position after the first.
    """

    logprobs: np.ndarray | None = None
    topk_ids: np.ndarray | None = None
    topk_logprobs: np.ndarray | None = None
    target_logprobs: np.ndarray | None = None
    alternative_ids: np.ndarray | None = None
    alternative_logprobs: np.ndarray | None = None


def score_prompt(operation: Sample, hidden_TD: Tensor, head: Head) -> PromptScores:
    """Everything that a request wants to know about its prompt."""
    num_prompt = len(operation.prompt_tokens)
    last_n = operation.prompt_logprobs_last_n
    first = 1 if last_n is None else max(1, num_prompt - last_n)
    logprobs = topk = targets = alternatives = None
    if operation.prompt_logprobs:
        logprobs = _own_logprobs(operation.prompt_tokens, hidden_TD, head, first)
    if operation.topk_prompt_logprobs > 0:
        topk = _top(operation.topk_prompt_logprobs, hidden_TD, head, first)
    if operation.target_prompt_ids is not None:
        targets = _of_targets(operation.target_prompt_ids, hidden_TD, head)
    if operation.num_prompt_alternatives > 0:
        alternatives = _alternatives(operation, hidden_TD, head)
    topk_ids, topk_logprobs = topk or (None, None)
    alternative_ids, alternative_logprobs = alternatives or (None, None)
    return PromptScores(
        logprobs, topk_ids, topk_logprobs, targets, alternative_ids, alternative_logprobs
    )


def _own_logprobs(tokens_T: np.ndarray, hidden_TD: Tensor, head: Head, first: int) -> np.ndarray:
    found_T = np.full(len(tokens_T), np.nan, np.float32)
    following = torch.from_numpy(tokens_T[first:].astype(np.int64)).to(hidden_TD.device)
    p = target_logprobs(hidden_TD[first - 1 : -1], following, head)
    found_T[first:] = p.cpu().numpy()
    return found_T


def _top(k: int, hidden_TD: Tensor, head: Head, first: int) -> tuple[np.ndarray, np.ndarray]:
    num_prompt, vocab_size = hidden_TD.shape[0], head.weight_VD.shape[0]
    ids_TK = np.zeros((num_prompt, k), np.int64)
    logprobs_TK = np.full((num_prompt, k), _NO_LOGPROB, np.float32)
    if num_prompt > first:
        ids, values = top_logprobs(hidden_TD[first - 1 : -1], head, min(k, vocab_size))
        ids_TK[first:, : ids.shape[1]] = ids.cpu().numpy()
        logprobs_TK[first:, : ids.shape[1]] = values.cpu().numpy()
    return ids_TK, logprobs_TK


def _of_targets(ids_NK: np.ndarray, hidden_TD: Tensor, head: Head) -> np.ndarray:
    wanted = torch.from_numpy(np.maximum(ids_NK, 0).astype(np.int64)).to(hidden_TD.device)
    p = target_logprobs(hidden_TD[:-1], wanted, head).float().cpu().numpy()
    return np.where(ids_NK < 0, np.float32(0), p)


def _alternatives(
    operation: Sample, hidden_TD: Tensor, head: Head
) -> tuple[np.ndarray, np.ndarray]:
    """Independent draws at the request's temperature, and their plain log-probabilities."""
    k, vocab_size = operation.num_prompt_alternatives, head.weight_VD.shape[0]
    per_chunk = max(1, _CHUNK_ELEMENTS // (vocab_size * k))
    ids, logprobs = [], []
    for start in range(0, hidden_TD.shape[0] - 1, per_chunk):
        logits_NV = head.logits(hidden_TD[:-1][start : start + per_chunk])
        drawn_NK = _draw_each(operation, logits_NV, start)
        p_NK = logits_NV.gather(1, drawn_NK) - logits_NV.logsumexp(-1, keepdim=True)
        ids.append(drawn_NK.cpu().numpy())
        logprobs.append(p_NK.cpu().numpy().astype(np.float32))
    if not ids:
        return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
    return np.concatenate(ids), np.concatenate(logprobs)


def _draw_each(operation: Sample, logits_NV: Tensor, start: int) -> Tensor:
    k, params = operation.num_prompt_alternatives, operation.params
    num_rows, vocab_size = logits_NV.shape[0] * k, logits_NV.shape[1]
    rows = RowParams.build(
        [params.temperature] * num_rows,
        [-1] * num_rows,
        [1.0] * num_rows,
        vocab_size,
        logits_NV.device,
    )
    positions = np.repeat(np.arange(start, start + logits_NV.shape[0]), k)
    numbers = uniforms(
        np.full(num_rows, params.seed % 2**64, np.uint64),
        np.tile(np.arange(k), logits_NV.shape[0]).astype(np.uint64) + np.uint64(_ALTERNATIVES),
        positions.astype(np.uint64),
    )
    repeated = logits_NV.repeat_interleave(k, dim=0)  # a copy: drawing overwrites it
    tokens_R, _ = draw(repeated, rows, torch.from_numpy(numbers).to(logits_NV.device))
    return tokens_R.view(-1, k)
