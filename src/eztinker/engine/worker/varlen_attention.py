"""Causal attention of packed sequences as one call of a kernel for sequences of many lengths, on CUDA.

The kernel is PyTorch's ``varlen_attn``, flash attention (Dao 2023, arXiv:2307.08691) in half precision: one
launch instead of one for each sequence. What it does not cover stays with ``attention.py``, which asks
``can_attend`` first. Knows no layers and no requests.

Axes: H query heads, G key-value heads, N flat rows, E head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

_LARGEST_HEAD = 256
_HEAD_MULTIPLE = 8
_FIRST_CAPABILITY = (8, 0)
"""NVIDIA's generation (Ampere) from which on flash attention runs."""


def can_attend(q_1HNE: Tensor) -> bool:
    """Whether the kernel takes such queries on their device."""
    size = q_1HNE.shape[-1]
    return (
        q_1HNE.is_cuda
        and q_1HNE.dtype in (torch.bfloat16, torch.float16)
        and size <= _LARGEST_HEAD
        and size % _HEAD_MULTIPLE == 0
        and torch.cuda.get_device_capability(q_1HNE.device) >= _FIRST_CAPABILITY
        and _has_kernel()
    )


@cache
def _has_kernel() -> bool:
    """Whether this torch has the kernel, for groups of query heads too; builds for AMD have not."""
    if torch.version.cuda is None:
        return False
    try:
        return "enable_gqa" in inspect.signature(_kernel()).parameters
    except ImportError:  # a torch that has none yet
        return False


def _kernel() -> Callable[..., Any]:
    # Its module takes a second to import, which a worker on a CPU need not spend.
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where the sequences of a pass begin.

    Attributes:
        starts: int32 [sequences + 1], on the device of the pass.
        longest: tokens.
    """

    starts: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Bounds:
        """Those of sequences one after another."""
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return cls(starts, max(lengths))


def attend(
    q_1HNE: Tensor,
    k_1GNE: Tensor,
    v_1GNE: Tensor,
    bounds: Bounds,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """Attention output [1, H, N, E].

    Args:
        q_1HNE, k_1GNE, v_1GNE: sequence after sequence.
        bounds: of the sequences.
        scaling: factor on q·k; None means 1/sqrt(E).
        sliding_window: positions a query sees, itself included; None sees all before it.
    """
    before = -1 if sliding_window is None else sliding_window - 1
    out_NHE = _kernel()(
        q_1HNE[0].transpose(0, 1),
        k_1GNE[0].transpose(0, 1),
        v_1GNE[0].transpose(0, 1),
        bounds.starts,
        bounds.starts,
        bounds.longest,
        bounds.longest,
        scale=scaling,
        window_size=(before, 0),
        enable_gqa=q_1HNE.shape[1] != k_1GNE.shape[1],
    )
    return out_NHE.transpose(0, 1)[None]
