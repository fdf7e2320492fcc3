"""What is handed to the kernel for many lengths, with a kernel of plain products in its place.

The kernel itself runs on CUDA only: ``benchmarks/gpu.sh`` runs the parity tests with it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from eztinker.engine.worker import varlen_attention
from eztinker.engine.worker.attention import PackedLayout, Variant

SIZE = 8


def plain_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """``varlen_attn`` as PyTorch documents it: [rows, heads, E]."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert len(query) == cu_seq_q[-1]
    assert len(key) == len(value) == cu_seq_k[-1]
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    parts = []
    for i in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[i] : cu_seq_q[i + 1]]
        k, v = (x[cu_seq_k[i] : cu_seq_k[i + 1]] for x in (key, value))
        age = torch.arange(len(q))[:, None] - torch.arange(len(k))
        hidden = age < -window_size[1]
        if window_size[0] >= 0:
            hidden |= age > window_size[0]
        scores = torch.einsum("qhe,khe->hqk", q, k) * scale
        probabilities = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        parts.append(torch.einsum("hqk,khe->qhe", probabilities, v))
    return torch.cat(parts)


@pytest.mark.parametrize(("num_q", "num_kv"), [(4, 4), (4, 2)])
@pytest.mark.parametrize("variant", [Variant(), Variant(scaling=0.3), Variant(sliding_window=4)])
def test_one_call_equals_sequence_by_sequence(
    monkeypatch: pytest.MonkeyPatch,
    num_q: int,
    num_kv: int,
    variant: Variant,
) -> None:
    torch.manual_seed(num_kv)
    lengths = [6, 3, 7, 1, 5]
    heads = (num_q, num_kv, num_kv)
    leaves = [torch.randn(1, n, sum(lengths), SIZE, requires_grad=True) for n in heads]
    expected = PackedLayout(lengths).attend(0, *leaves, variant)

    def takes_all(_q: torch.Tensor) -> bool:
        return True

    monkeypatch.setattr(varlen_attention, "can_attend", takes_all)
    monkeypatch.setattr(varlen_attention, "_kernel", lambda: plain_kernel)
    out = PackedLayout(lengths).attend(0, *leaves, variant)
    torch.testing.assert_close(out, expected)
    pull = torch.randn_like(out)
    found, wanted = (torch.autograd.grad(x, leaves, pull) for x in (out, expected))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({}, True),
        ({"dtype": torch.float32}, False),
        ({"size": 12}, False),
        ({"size": 264}, False),
        ({"capability": (7, 5)}, False),
        ({"is_cuda": False}, False),
        ({"cuda": None}, False),
    ],
)
def test_only_what_the_kernel_covers_is_given_to_it(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], taken: bool
) -> None:
    asked = {
        "dtype": torch.bfloat16,
        "size": 64,
        "capability": (8, 0),
        "is_cuda": True,
        "cuda": "13",
    } | change

    class Queries:
        shape = (1, 2, 3, asked["size"])
        dtype, is_cuda, device = asked["dtype"], asked["is_cuda"], "cuda:0"

    monkeypatch.setattr(torch.version, "cuda", asked["cuda"])
    varlen_attention._has_kernel.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: asked["capability"])
    try:
        assert varlen_attention.can_attend(Queries()) is taken  # type: ignore[arg-type]
    finally:
        varlen_attention._has_kernel.cache_clear()
