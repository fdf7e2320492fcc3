"""Products with weights laid out for oneDNN equal plain ones."""

from __future__ import annotations

import pytest
import torch

from eztinker.ops.logprobs import Head
from eztinker.ops.packed_linear import can_pack, pack, packed_linear, packed_linear_added

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("num_rows", [1, 5, 70])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_the_plain_product(dtype, num_rows, with_bias):
    if not can_pack(CPU, dtype):
        pytest.skip("this torch has no oneDNN")
    torch.manual_seed(0)
    x, w, y = (torch.randn(shape).to(dtype) for shape in ((num_rows, 48), (80, 48), (num_rows, 80)))
    bias = torch.randn(80).to(dtype) if with_bias else None
    packed = pack(w)
    expected = x.double() @ w.double().t() + (0 if bias is None else bias.double())
    for ours, wanted in (
        (packed_linear(x, packed, bias), expected),
        (packed_linear_added(y, x, packed, bias), expected + y.double()),
    ):
        error = (ours.double() - wanted).abs().max() / wanted.abs().max()
        assert error < TOLERANCE[dtype]


def test_a_head_uses_the_plain_weight_where_gradients_are_taken():
    if not can_pack(CPU, torch.float32):
        pytest.skip("this torch has no oneDNN")
    torch.manual_seed(0)
    weight, hidden = torch.randn(50, 16), torch.randn(3, 16, requires_grad=True)
    head = Head(weight, packed_VD=pack(weight))
    head.logits(hidden).sum().backward()
    torch.testing.assert_close(hidden.grad, weight.sum(0).expand(3, -1))
    with torch.no_grad():
        torch.testing.assert_close(head.logits(hidden), hidden @ weight.t())


def test_no_packing_elsewhere():
    assert not can_pack(torch.device("cuda"), torch.bfloat16)
    assert not can_pack(CPU, torch.float64)
