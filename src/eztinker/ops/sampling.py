"""Drawing the next token: temperature, top-k, top-p, and reproducible random numbers.

Pure functions of logits and counters; they know no cache and no request. Called by
``engine/worker/sampler.py``.

Every random number is a hash of (seed of the request, sample, token index), so a token depends on these
and the logits alone, not on which other rows happen to share the batch. The draw inverts the cumulative
distribution on two levels, blocks of the vocabulary and then tokens of one block: sorting or
``multinomial`` over a large vocabulary costs many times more.

Axes: R rows, V vocabulary, C candidates kept by a filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eztinker.ops.interpreted import interpreted

_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)
_BLOCK = 512
_CHUNK_ELEMENTS = 2**18
"""Logits handled at a time: a megabyte stays in a core's cache from one step to the next."""
_MIN_TEMPERATURE = 1e-6
"""Dividing logits by less overflows float32; greedy but for exact ties."""


@dataclass(frozen=True, slots=True)
class RowParams:
    """How each row of a batch is drawn; tensors on the device of the logits.

    Attributes:
        top_k_R: int64; V or more keeps all.
        top_p_R: float32 in (0, 1].
        greedy_R: where the temperature is 0; None when no row is greedy.
        filtered_R: where top-k or top-p leaves something out; None when no random row is filtered.
        divisor_R1: the temperature, 1 where it is 0; None when that is 1 in every row.
        any_unfiltered: some random row is not filtered.
        max_top_k: largest top-k among random rows that use it; 0 when none filters by rank.
        any_unranked_top_p: some random row uses top-p without top-k.
    """

    top_k_R: Tensor
    top_p_R: Tensor
    greedy_R: Tensor | None
    filtered_R: Tensor | None
    divisor_R1: Tensor | None
    any_unfiltered: bool
    max_top_k: int
    any_unranked_top_p: bool

    @classmethod
    def build(
        cls,
        temperatures: list[float],
        top_ks: list[int],
        top_ps: list[float],
        vocab_size: int,
        device: torch.device,
    ) -> RowParams:
        """From one value per row; ``top_k`` below 1 switches the filter off."""
        ranks = [k if 0 < k < vocab_size else vocab_size for k in top_ks]
        random = [t > 0 for t in temperatures]
        ranked = [k for k, r in zip(ranks, random, strict=True) if r and k < vocab_size]
        nuclear = [p < 1 and r for p, r in zip(top_ps, random, strict=True)]
        filtered = [
            n or (k < vocab_size and r) for n, k, r in zip(nuclear, ranks, random, strict=True)
        ]
        divisors = [max(t, _MIN_TEMPERATURE) if t else 1.0 for t in temperatures]

        def tensor(values: list[Any], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        return cls(
            top_k_R=tensor(ranks, torch.int64),
            top_p_R=tensor(top_ps, torch.float32),
            greedy_R=None if all(random) else ~tensor(random, torch.bool),
            filtered_R=tensor(filtered, torch.bool) if any(filtered) else None,
            divisor_R1=(
                tensor(divisors, torch.float32)[:, None] if any(d != 1 for d in divisors) else None
            ),
            any_unfiltered=any(r and not f for r, f in zip(random, filtered, strict=True)),
            max_top_k=max(ranked, default=0),
            any_unranked_top_p=any(
                n and k == vocab_size for n, k in zip(nuclear, ranks, strict=True)
            ),
        )


def uniforms(seeds: np.ndarray, samples: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Float64 in (0, 1), each a function of (seed, sample, token index) only; the shapes broadcast.

    A chain of splitmix64 finalisers (Steele et al. 2014, doi:10.1145/2660193.2660195) over the three
    counters; the upper 53 bits become the number.
    """
    state = _mix(seeds.astype(np.uint64))
    state = _mix(state ^ _mix(samples.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
    state = _mix(state ^ _mix(indices.astype(np.uint64) + np.uint64(0xD1B54A32D192ED03)))
    return ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mix(value: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        value = (value + np.uint64(0x9E3779B97F4A7C15)) & _MASK
        value = ((value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)) & _MASK
        value = ((value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)) & _MASK
    return value ^ (value >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Penalties:
    """What is taken from single logits; tensors on their device.

    Attributes:
        rows_E, tokens_E: int64, which ones; no pair occurs twice.
        amounts_E: float32.
    """

    rows_E: Tensor
    tokens_E: Tensor
    amounts_E: Tensor

    @classmethod
    def build(
        cls, rows: list[int], tokens: list[int], amounts: list[float], device: torch.device
    ) -> Penalties:
        """From one value per logit."""
        return cls(
            torch.tensor(rows, dtype=torch.int64, device=device),
            torch.tensor(tokens, dtype=torch.int64, device=device),
            torch.tensor(amounts, dtype=torch.float32, device=device),
        )


def penalise(logits_RV: Tensor, penalties: Penalties) -> None:
    """Lower, in place, the logits of tokens that their rows hold already.

    With c occurrences of a token the amount is presence + frequency·c, as the OpenAI API defines its two
    penalties.
    """
    logits_RV[penalties.rows_E, penalties.tokens_E] -= penalties.amounts_E


def draw(logits_RV: Tensor, params: RowParams, uniforms_R: Tensor) -> tuple[Tensor, Tensor]:
    """Next token of every row and its log-probability.

    Args:
        logits_RV: float32; overwritten.
        params: per row.
        uniforms_R: float64 in (0, 1).

    Returns:
        Tokens int64 [R] and float32 log softmax(logits / T) at them, before top-k and top-p (of the
        plain distribution where T is 0).
    """
    scaled = logits_RV if params.divisor_R1 is None else logits_RV.div_(params.divisor_R1)
    on_cpu = scaled.device.type == "cpu"
    rows_at_once = max(1, _CHUNK_ELEMENTS // scaled.shape[1]) if on_cpu else len(scaled)
    tokens_R, logsumexp_R = _draw_unfiltered(
        scaled, uniforms_R, params.any_unfiltered, rows_at_once, _BLOCK
    )
    if params.filtered_R is not None:
        filtered_R = _draw_filtered(scaled, logsumexp_R, params, uniforms_R)
        tokens_R = torch.where(params.filtered_R, filtered_R, tokens_R)
    if params.greedy_R is not None:
        tokens_R = torch.where(params.greedy_R, scaled.argmax(-1), tokens_R)
    return tokens_R, scaled.gather(1, tokens_R[:, None])[:, 0] - logsumexp_R


@interpreted
def _draw_unfiltered(
    scaled: Tensor, uniforms_R: Tensor, is_drawn: bool, rows_at_once: int, block: int
) -> tuple[Tensor, Tensor]:
    """Tokens [R] of the whole distribution (0 if not ``is_drawn``), and its log Σ exp [R].

    Some rows at a time, to stay in cache. The sum comes from the same numbers either way: what a row
    reports must not depend on how its neighbours are drawn.
    """
    tokens: list[Tensor] = []
    sums: list[Tensor] = []
    for start in range(0, scaled.shape[0], rows_at_once):
        u_R = uniforms_R[start : start + rows_at_once]
        blocks, peak_R = _exponentials(scaled[start : start + rows_at_once], block)
        block_sums = blocks.sum(-1).double()
        if is_drawn:
            tokens.append(_draw_in_blocks(blocks, block_sums, u_R))
        else:
            tokens.append(torch.zeros_like(u_R, dtype=torch.int64))
        sums.append((peak_R + block_sums.sum(-1).log_()).float())
    if len(tokens) == 1:
        return tokens[0], sums[0]
    return torch.cat(tokens), torch.cat(sums)


def _exponentials(scaled: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """exp(z - max z) in blocks of the vocabulary [R, ·, block], the last one filled up with 0, and max z.

    One pass over the vocabulary serves the sum and the draw.
    """
    num_rows, vocab_size = scaled.shape
    filled = scaled.new_empty([num_rows, vocab_size + -vocab_size % block])
    filled[:, vocab_size:] = 0
    peak_R = scaled.amax(-1)
    torch.sub(scaled, peak_R[:, None], out=filled[:, :vocab_size])
    filled[:, :vocab_size].exp_()
    return filled.view(num_rows, -1, block), peak_R


def _draw_filtered(scaled: Tensor, logsumexp_R: Tensor, params: RowParams, u_R: Tensor) -> Tensor:
    """Draw among the rows' likeliest tokens; rows without a filter get an answer that is not used."""
    vocab_size = scaled.shape[1]
    num = params.max_top_k
    if params.any_unranked_top_p:
        num = max(num, _nucleus_bound(scaled, logsumexp_R, params))
    top = scaled.topk(min(num, vocab_size), dim=-1)  # sorted, best first
    probabilities_RC = torch.exp((top.values - logsumexp_R[:, None]).double())
    keep_top_k(probabilities_RC, params.top_k_R)
    # Without top-k the mass is 1 however many candidates are at hand; with it, what top-k kept.
    mass_R = torch.where(params.top_k_R >= vocab_size, 1.0, probabilities_RC.sum(-1))
    keep_top_p(probabilities_RC, params.top_p_R, mass_R)
    cumulative_RC = probabilities_RC.cumsum(-1)
    threshold_R = u_R * cumulative_RC[:, -1]
    place_R = (cumulative_RC <= threshold_R[:, None]).sum(-1).clamp_max(cumulative_RC.shape[1] - 1)
    return top.indices.gather(1, place_R[:, None])[:, 0]


def _nucleus_bound(scaled: Tensor, logsumexp_R: Tensor, params: RowParams) -> int:
    """A number of candidates that covers every unranked nucleus."""
    vocab_size = scaled.shape[1]
    needs_R = (params.top_k_R >= vocab_size) & (params.top_p_R < 1)
    rows, top_p = scaled[needs_R], params.top_p_R[needs_R]
    num = 128
    while num < vocab_size:
        mass = torch.exp(rows.topk(num, dim=-1).values - logsumexp_R[needs_R][:, None]).sum(-1)
        if bool((mass >= top_p).all()):
            return num
        num *= 8
    return vocab_size


def keep_top_k(probabilities_RC: Tensor, top_k_R: Tensor) -> None:
    """Zero, in place, all but each row's first ``top_k`` candidates (sorted, best first)."""
    rank_C = torch.arange(probabilities_RC.shape[1], device=probabilities_RC.device)
    probabilities_RC.masked_fill_(rank_C >= top_k_R[:, None], 0)


def keep_top_p(probabilities_RC: Tensor, top_p_R: Tensor, mass_R: Tensor) -> None:
    """Zero, in place, what lies beyond each row's nucleus: the fewest candidates (sorted, best first)
    whose share of ``mass_R`` reaches ``top_p`` (Holtzman et al. 2019, arXiv:1904.09751).
    """
    before_RC = probabilities_RC.cumsum(-1) - probabilities_RC
    beyond = before_RC >= (top_p_R * mass_R)[:, None]
    beyond[:, 0] = False  # a top_p below what float32 holds arrives as 0
    probabilities_RC.masked_fill_(beyond & (top_p_R < 1)[:, None], 0)


def _draw_in_blocks(blocks: Tensor, block_sums: Tensor, uniforms_R: Tensor) -> Tensor:
    """Token ids [R] from masses in blocks [R, ·, size] and the float64 sum of each block."""
    num_rows, num_blocks, size = blocks.shape
    block_ends = block_sums.cumsum(-1)
    threshold_R1 = (uniforms_R * block_ends[:, -1])[:, None]
    block_R1 = torch.searchsorted(block_ends, threshold_R1, right=True).clamp_max_(num_blocks - 1)
    start_R1 = torch.where(block_R1 > 0, block_ends.gather(1, (block_R1 - 1).clamp_min_(0)), 0.0)
    row_R = torch.arange(0, num_rows * num_blocks, num_blocks, device=blocks.device)
    chosen = blocks.reshape(-1, size).index_select(0, row_R + block_R1[:, 0])
    inside = chosen.double().cumsum_(-1)
    # The two sums round differently; staying below the block's own end keeps the draw inside it, and
    # on a token of positive probability.
    wanted_R1 = torch.minimum(threshold_R1 - start_R1, inside[:, -1:] * (1 - 1e-12))
    return (block_R1 * size + torch.searchsorted(inside, wanted_R1, right=True))[:, 0]
