"""Very few rows: their own copies of the weights, and as many threads as their work keeps busy."""

from __future__ import annotations

import pytest
import torch

from eztinker.engine.worker.devices import threads_for
from eztinker.engine.worker.lean_adapters import Projection
from eztinker.engine.worker.packed_projection import PackedProjection
from eztinker.ops.logprobs import Head
from eztinker.ops.packed_linear import can_pack, pack, turned

can_pack_here = can_pack(torch.device("cpu"), torch.float32)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not can_pack_here, reason="weights cannot be packed here")
@pytest.mark.parametrize("with_bias", [True, False])
def test_very_few_rows_give_what_they_give_among_others(with_bias):
    torch.manual_seed(0)
    weight, x_ND = torch.randn(96, 40), torch.randn(3, 40)
    bias = torch.randn(96) if with_bias else None
    packed, copy = pack(weight), turned(weight)
    projection = PackedProjection(Projection(weight, bias, ((0, 0, 96),)), packed, None, copy)
    head = Head(weight, bias, packed_VD=packed, turned_DV=copy)
    expected = x_ND.double() @ weight.double().t() + (0 if bias is None else bias.double())
    for rows in (slice(0, 3), slice(0, 2), slice(1, 2)):
        for product in (projection, lambda x: head.plain_product(x, may_pack=True)):
            torch.testing.assert_close(
                product(x_ND[rows]).double(), expected[rows], rtol=1e-5, atol=1e-4
            )


def test_only_what_gains_by_it_is_copied():
    assert turned(torch.zeros(8, 4)) is not None
    assert turned(torch.zeros(4, 8)) is None, "read fastest as it is"
    assert turned(torch.zeros(8, 4, dtype=torch.bfloat16)) is None


def test_little_work_takes_one_thread_and_gives_the_others_back(two_threads):
    with threads_for(1e6):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with threads_for(1e12):
        assert torch.get_num_threads() == 2
    with pytest.raises(ValueError, match="stopped"), threads_for(1e6):
        raise ValueError("stopped")
    assert torch.get_num_threads() == 2
