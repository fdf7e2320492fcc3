"""Parts of the reward, their weights, and a judge that fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.recipes.finance.reward import FinanceScorer, RewardWeights
from eztinker.rl.candidates import Example

ONE = Example(0, "1 + 1?", "", "2")
shares = st.floats(0, 1)


def scorer(marks: list[float | None] | None = None, share: float = 0.5) -> FinanceScorer:
    return FinanceScorer(
        RewardWeights(0.3, 0.7, share),
        is_formed=lambda text: text.startswith("<think>"),
        is_right=lambda example, text: text.endswith(example.ground_truth),
        judge=None if marks is None else lambda answers: marks,
    )


@pytest.mark.parametrize(
    ("text", "reward"),
    [("<think>2", 1.0), ("<think>3", 0.3), ("2", 0.7), ("3", 0.0)],
)
def test_rules_alone(text: str, reward: float) -> None:
    (grade,) = scorer().score([(ONE, text)])
    assert grade["score"] == pytest.approx(reward)
    assert grade["is_correct"] == text.endswith("2")
    assert grade["strategy"] == "rules"
    assert grade["judge_reward"] is None


def test_the_judge_has_its_share_of_the_accuracy_alone() -> None:
    (grade,) = scorer([0.4], share=0.25).score([(ONE, "<think>2")])
    assert grade["accuracy_reward"] == pytest.approx(0.75 * 1 + 0.25 * 0.4)
    assert grade["score"] == pytest.approx(0.3 + 0.7 * 0.85)


def test_a_failed_verdict_is_counted_and_leaves_the_rules_alone() -> None:
    scores = scorer([None, 0.0])
    failed, judged = scores.score([(ONE, "<think>2"), (ONE, "<think>2")])
    assert failed["score"] == pytest.approx(1.0)
    assert failed["strategy"] == "failed_verdict"
    assert judged["score"] == pytest.approx(0.3 + 0.35)
    figures = scores.figures_of([failed, judged])
    assert figures["num_failed_verdicts"] == 1
    assert figures["judge_reward"] == 0.0  # of those that could be read
    assert figures["format_reward"] == 1.0
    assert figures["rule_reward"] == 1.0
    assert scores.figures_of([judged])["num_failed_verdicts"] == 0


@given(shares, shares, shares, st.booleans(), st.booleans(), st.none() | shares)
def test_the_reward_lies_between_nothing_and_both_weights(
    form: float,
    accuracy: float,
    share: float,
    is_formed: bool,
    is_right: bool,
    judged: float | None,
) -> None:
    parts = RewardWeights(form, accuracy, share).reward(is_formed, is_right, judged)
    assert -1e-9 <= parts["score"] <= form + accuracy + 1e-9
    expected = form * parts["format_reward"] + accuracy * parts["accuracy_reward"]
    assert parts["score"] == pytest.approx(expected)


def test_the_text_that_a_prompt_opened_is_put_back() -> None:
    scores = FinanceScorer(
        RewardWeights(),
        is_formed=lambda text: text == "<think>so</think>",
        is_right=lambda example, text: False,
        whole=lambda example, text: f"<think>{text}",
    )
    (grade,) = scores.score([(ONE, "so</think>")])
    assert grade["format_reward"] == 1.0
