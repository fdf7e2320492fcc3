"""Scorers: what they count, and what never counts as right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import InvalidRequestError
from eztinker.grading.judge import read_marks, read_verdict
from eztinker.rl.candidates import Example, Policy
from eztinker.rl.reward_token import reward_datum, reward_token_id
from eztinker.rl.scorers import DatasetScorer, JudgeScorer
from tests.unit.rl.fake_service import CharTokenizer, Handle

EXAMPLE = Example(0, "What is 1 + 1?", "", "2")


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("Score: 7", 7.0),
        ("The answer is fine.\n**Score:** 8.5", 8.5),
        ("Score: 4/5", 8.0),
        ("得分：9", 9.0),
        ("10", 10.0),
        ("7/10", 7.0),
        ("<think>Score: 1</think>Score: 6", 6.0),
        ("Score: 11", None),
        ("Score: -1", None),
        ("Score: 3\nScore: 9", None),
        ("Score: 3/0", None),
        ("I like 7 of the 10 steps.", None),
        ("", None),
        (None, None),
    ],
)
def test_a_verdict_is_one_mark_in_range_or_nothing(text, mark):
    assert read_verdict(text, 10.0) == mark


@given(st.text(max_size=200))
def test_reading_never_raises(text):
    mark = read_verdict(text, 10.0)
    assert mark is None or 0 <= mark <= 10
    read_marks(text, ("a",), 10.0)


def test_marks_by_name():
    assert read_marks('Here: {"clarity": 3, "accuracy": 9.5}', ("clarity", "accuracy"), 10) == {
        "clarity": 3.0,
        "accuracy": 9.5,
    }
    for text in (
        '{"clarity": 3}',
        '{"clarity": 3, "accuracy": 11}',
        '{"clarity": true, "accuracy": 1}',
        "no",
    ):
        assert read_marks(text, ("clarity", "accuracy"), 10) is None


class JudgeClient:
    """Gives the same verdicts in turn."""

    def __init__(self, *verdicts: str) -> None:
        self.verdicts = list(verdicts)
        self.asked: list[str] = []

    def submit_sample(self, prompt, **params):
        self.asked.append("".join(map(chr, prompt)))
        return Handle("job", [self.verdicts.pop(0)])


def test_a_judge_that_answers_nonsense_is_counted_and_never_right():
    client = JudgeClient("Score: 9", "bananas", "Score: 2")
    scorer = JudgeScorer(client, Policy(base_model="judge"), CharTokenizer())
    grades = scorer.score([(EXAMPLE, "it is {answer} 2"), (EXAMPLE, "3"), (EXAMPLE, "4")])
    assert [g["score"] for g in grades] == [0.9, 0.0, 0.2]
    assert [g["is_correct"] for g in grades] == [True, False, False]
    assert grades[1]["strategy"] == "failed_verdict"
    assert scorer.figures_of(grades) == {"num_judged": 3, "num_failed_verdicts": 1}
    assert scorer.figures_of(grades[:1]) == {"num_judged": 1, "num_failed_verdicts": 0}
    assert "What is 1 + 1?" in client.asked[0]
    assert "it is {answer} 2" in client.asked[0]


class Unreadable:
    def evaluate_answer(self, text, truth, question=""):
        return {"score": 0.0, "is_correct": False, "strategy": self.strategy}

    def __init__(self, strategy: str) -> None:
        self.strategy = strategy


def test_an_answer_that_cannot_be_read_is_wrong_and_a_reference_that_cannot_is_an_error():
    scorer = DatasetScorer(Unreadable("no_answer"))
    grades = scorer.score([(EXAMPLE, "?")])
    assert grades[0]["score"] == 0.0
    assert scorer.figures_of(grades) == {"num_unreadable": 1}
    with pytest.raises(InvalidRequestError, match="reference answer of example 0"):
        DatasetScorer(Unreadable("unparsable_ground_truth")).score([(EXAMPLE, "2")])


def test_the_reward_token_is_one_token():
    class Words:
        def encode(self, text, add_special_tokens):
            return [5] if text == "yes" else [1, 2]

    assert reward_token_id(Words()) == 5
    with pytest.raises(InvalidRequestError, match="exactly one token"):
        reward_token_id(Words(), "two words")
    datum = reward_datum([1, 2], 5)
    assert datum["input_ids"] == [1, 2, 5]
    assert datum["weights"] == [0.0, 0.0, 1.0]
