"""Schedules against those of torch, and the order of data."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.order import batch_of_step, is_due, stretches
from eztinker.rl.pass_at_k import pass_at_k
from eztinker.rl.schedule import SCHEDULES, Schedule


def test_warm_up_is_linear_and_ends_at_the_peak():
    rates = Schedule("constant_with_warmup", 1.0, 6, 4).rates()
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_linear_and_cosine_equal_the_schedulers_of_torch():
    import torch

    def of_torch(shape: str) -> list[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
        scheduler = (
            torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=10)
            if shape == "linear"
            else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
        )
        rates = []
        for _ in range(10):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return rates

    for shape in ("linear", "cosine"):
        assert Schedule(shape, 3e-4, 10).rates() == pytest.approx(of_torch(shape))


@given(
    name=st.sampled_from(SCHEDULES),
    num_steps=st.integers(1, 40),
    share=st.floats(0, 0.99),
    peak=st.floats(1e-6, 1.0),
)
def test_every_rate_is_above_zero_and_at_most_the_peak(name, num_steps, share, peak):
    warmup = int(share * num_steps)
    rates = Schedule(name, peak, num_steps, warmup).rates()
    assert len(rates) == num_steps
    assert all(0 < rate <= peak for rate in rates)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [(("cosin", 1.0, 5), "lr_scheduler_type"), (("linear", 1.0, 0), "max_steps"),
     (("linear", 1.0, 5, 5), "warmup_steps")],
)  # fmt: skip
def test_impossible_schedules_are_refused(arguments, field):
    with pytest.raises(InvalidRequestError) as caught:
        Schedule(*arguments)
    assert caught.value.field == field


@given(num=st.integers(1, 30), batch=st.integers(1, 12), seed=st.integers(0, 9))
def test_an_epoch_has_every_example_once(num, batch, seed):
    per_epoch = math.ceil(num / batch)
    epochs = [
        Counter(
            i for step in range(per_epoch) for i in batch_of_step(num, batch, start + step, seed)
        )
        for start in (0, per_epoch)
    ]
    assert epochs == [Counter(range(num))] * 2


@given(
    first=st.integers(0, 30),
    length=st.integers(0, 30),
    a=st.integers(1, 9),
    b=st.none() | st.integers(1, 9),
)
def test_stretches_tile_and_end_where_something_is_due(first, length, a, b):
    last = first + length
    found = list(stretches(first, last, a, b))
    steps = [i for start, stop in found for i in range(start, stop)]
    assert steps == list(range(first, last))
    due = [i for i in range(first + 1, last + 1) if is_due(i, a) or is_due(i, b) or i == last]
    assert [stop for _, stop in found] == due


def test_pass_at_k_counts_all_choices():
    import itertools

    for n, c, k in itertools.product(range(1, 6), range(6), range(1, 6)):
        if c <= n and k <= n:
            draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    with pytest.raises(InvalidRequestError):
        pass_at_k(2, 1, 3)
