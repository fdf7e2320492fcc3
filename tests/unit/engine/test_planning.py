"""Micro-batches hold every datum once, within the budget, groups together, the same every time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.engine.planning import plan_pass

LENGTHS = st.lists(st.integers(0, 300), max_size=40)


@given(num_tokens_D=LENGTHS, budget_tokens=st.integers(1, 400), group_size=st.integers(1, 3))
def test_every_plan_is_complete_and_within_its_budget(
    num_tokens_D: list[int], budget_tokens: int, group_size: int
) -> None:
    plan = plan_pass(num_tokens_D, budget_tokens=budget_tokens, group_size=group_size)
    indices = [index for batch in plan.micro_batches for index in batch]
    assert sorted(indices) == list(range(len(num_tokens_D)))
    for batch in plan.micro_batches:
        assert batch, "no empty micro-batch"
        groups = {index // group_size for index in batch}
        for group in groups:
            members = [index for index in range(len(num_tokens_D)) if index // group_size == group]
            start = batch.index(members[0])
            assert batch[start : start + len(members)] == members, (
                "a group stays together, in order"
            )
        num_tokens = sum(num_tokens_D[index] for index in batch)
        assert num_tokens <= budget_tokens or len(groups) == 1
    again = plan_pass(tuple(num_tokens_D), budget_tokens=budget_tokens, group_size=group_size)
    assert again == plan


@given(num_tokens_D=LENGTHS.filter(any), budget_tokens=st.integers(300, 400))
def test_no_more_micro_batches_than_the_sizes_ask_for(
    num_tokens_D: list[int], budget_tokens: int
) -> None:
    """More than the sum asks for only where any other one and the new one are too much together."""
    plan = plan_pass(num_tokens_D, budget_tokens=budget_tokens)
    sizes = [sum(num_tokens_D[index] for index in batch) for batch in plan.micro_batches]
    least = math.ceil(sum(min(n, budget_tokens) for n in num_tokens_D) / budget_tokens)
    for index in range(least, len(sizes)):
        assert all(before + sizes[index] > budget_tokens for before in sizes[:index])


def test_micro_batches_are_alike() -> None:
    plan = plan_pass([32 * i for i in range(1, 17)], budget_tokens=4096)
    sizes = [sum(32 * (i + 1) for i in batch) for batch in plan.micro_batches]
    assert sorted(sizes) == [2176, 2176]


def test_equal_lengths_keep_the_callers_order() -> None:
    assert plan_pass([5, 5, 5], budget_tokens=10).micro_batches == [[0, 2], [1]]


def test_long_data_come_first_each_to_where_there_is_least() -> None:
    plan = plan_pass([10, 90, 20, 80], budget_tokens=110)
    assert plan.micro_batches == [[1, 0], [3, 2]]


def test_a_datum_longer_than_the_budget_gets_a_batch_of_its_own() -> None:
    assert plan_pass([3, 50, 3], budget_tokens=10).micro_batches == [[1], [0, 2]]


@pytest.mark.parametrize("group_size", [1, 2])
def test_nothing_to_do_is_no_batch(group_size: int) -> None:
    assert plan_pass([], budget_tokens=10, group_size=group_size).micro_batches == []


def test_pairs_stay_together_although_one_of_them_is_long() -> None:
    plan = plan_pass([1, 1, 90, 2], budget_tokens=92, group_size=2)
    assert plan.micro_batches == [[2, 3], [0, 1]]
