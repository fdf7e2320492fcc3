"""Attention with a gradient written by hand against SDPA sequence by sequence."""

from __future__ import annotations

import pytest
import torch

from eztinker.engine.worker.attention import PackedLayout, Variant
from eztinker.engine.worker.packed_attention import (
    LONGEST_KEPT,
    SHORTEST_KEPT,
    can_attend,
    packed_attention,
)

SIZE = 8
LENGTHS = [
    [1],
    [5, 5, 5, 3, 1, 1],
    [SHORTEST_KEPT - 1, SHORTEST_KEPT, SHORTEST_KEPT, 70],
    [LONGEST_KEPT, LONGEST_KEPT + 1],
    [SHORTEST_KEPT + 33, 2],
]


def by_sdpa(heads_NHE: torch.Tensor, num_q: int, num_kv: int, lengths: list[int]) -> torch.Tensor:
    q, k, v = heads_NHE[None].transpose(1, 2).split((num_q, num_kv, num_kv), dim=1)
    out = PackedLayout(lengths).attend(0, q, k, v, Variant())
    return out.transpose(1, 2).reshape(heads_NHE.shape[0], -1)


@pytest.mark.parametrize(("num_q", "num_kv"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_output_and_gradient_are_those_of_sdpa(num_q, num_kv, lengths):
    torch.manual_seed(sum(lengths) + num_kv)
    heads = torch.randn(sum(lengths), num_q + 2 * num_kv, SIZE, requires_grad=True)
    ours, theirs = packed_attention(heads, num_q, lengths), by_sdpa(heads, num_q, num_kv, lengths)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    pull = torch.randn_like(ours)
    (grad,), (expected,) = (torch.autograd.grad(out, heads, pull) for out in (ours, theirs))
    assert float((grad - expected).norm()) <= 1e-5 * float(expected.norm()) + 1e-7


@pytest.mark.parametrize("length", [40, 200])
def test_a_sequence_gets_the_same_bits_whoever_lies_beside_it(length):
    torch.manual_seed(0)
    own = torch.randn(length, 4, SIZE)
    pull = torch.randn(length, 2 * SIZE)

    def gradient(before: list[int], after: list[int]) -> torch.Tensor:
        lengths = [*before, length, *after]
        heads = torch.randn(sum(lengths), 4, SIZE)
        rows = slice(sum(before), sum(before) + length)
        heads[rows] = own
        heads.requires_grad_()
        pulls = torch.zeros(sum(lengths), 2 * SIZE)
        pulls[rows] = pull
        (grad,) = torch.autograd.grad(packed_attention(heads, 2, lengths), heads, pulls)
        return grad[rows]

    alone = gradient([], [])
    assert torch.equal(alone, gradient([length, 30], [length]))
    assert torch.equal(alone, gradient([8], [170, length]))


@pytest.mark.parametrize(
    ("layout", "variant", "dtype", "expected"),
    [
        (PackedLayout([9, 4]), Variant(), torch.float32, True),
        (PackedLayout([9, 4]), Variant(sliding_window=9), torch.float32, True),
        (PackedLayout([9, 4]), Variant(sliding_window=8), torch.float32, False),
        (PackedLayout([9, 4]), Variant(softcap=3.0), torch.float32, False),
        (PackedLayout([9, 4], [-1, 0]), Variant(), torch.float32, False),
        (PackedLayout([9, 4]), Variant(), torch.bfloat16, False),
    ],
)
def test_what_is_not_covered_is_left_to_sdpa(layout, variant, dtype, expected):
    assert can_attend(torch.zeros(13, 4, SIZE, dtype=dtype), layout, variant) is expected
