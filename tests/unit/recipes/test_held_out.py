"""One file, two parts: no row on both sides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import InvalidRequestError
from eztinker.recipes.held_out import hold_out
from tests.unit.rl.fake_service import SumDataset


@given(st.integers(2, 60), st.integers(1, 80), st.integers(1, 80))
def test_parts_never_overlap_and_hold_at_most_a_fifth_out(size, max_samples, eval_size):
    train, test = hold_out(SumDataset(size), max_samples, eval_size)
    questions = [
        {part.get_example_question(i)[0] for i in range(len(part))} for part in (train, test)
    ]
    assert not questions[0] & questions[1]
    assert 1 <= len(train) <= max_samples
    assert 1 <= len(test) <= max(1, min(eval_size, size // 5))


def test_parts_read_and_grade_like_the_whole():
    whole = SumDataset(10)
    train, test = hold_out(whole, 3, 2)
    assert (len(train), len(test)) == (3, 2)
    assert test.get_example_question(1) == whole.get_example_question(9)
    assert test[0] == whole[8]
    assert test.evaluate_answer("#### 4", "4")["is_correct"]
    with pytest.raises(IndexError):
        train.get_example_question(3)


def test_one_row_is_too_few():
    with pytest.raises(InvalidRequestError):
        hold_out(SumDataset(1), 5, 5)
