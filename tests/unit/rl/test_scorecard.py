"""The evaluation harness on a model whose skill is known."""

from __future__ import annotations

import pytest

from eztinker.errors import InvalidRequestError
from eztinker.rl.candidates import CandidateParams, examples_of
from eztinker.rl.pass_at_k import mean_with_interval
from eztinker.rl.scorecard import Answered, EvaluationParams, Scorecard, evaluate_examples
from tests.unit.rl.fake_service import CharTokenizer, FakeClient, SumDataset


def test_answers_are_counted_by_type_with_pass_at_k():
    client, dataset = FakeClient(), SumDataset(12)
    run_id = client.create_run("fake", lora_rank=1, lora_alpha=2, lora_config={})
    params = EvaluationParams(CandidateParams(2, 1.0), seeds=(0, 1), ks=(1, 4))
    card = evaluate_examples(
        client, run_id, CharTokenizer(), dataset, examples_of(dataset), params,
        kind_of=lambda example: "even" if example.example_id % 2 == 0 else "odd",
    )  # fmt: skip
    figures = card.figures()
    assert figures["num_examples"] == 12
    assert figures["num_answers"] == 48
    assert set(figures["by_type"]) == {"even", "odd"}
    right = sum(one.num_correct for one in card.answered)
    assert figures["accuracy"] == figures["pass_at_k"]["1"] == pytest.approx(right / 48)
    solved = sum(one.num_correct > 0 for one in card.answered)
    assert figures["pass_at_k"]["4"] == pytest.approx(solved / 12)
    assert [row[0] for row in card.table()] == ["all", "even", "odd"]
    assert len(card.answered[0].rows()) == 4


def test_unreadable_answers_are_wrong_and_counted():
    example = examples_of(SumDataset(1))[0]
    grades = [{"is_correct": False, "score": 0.0, "strategy": "no_answer"}]
    figures = Scorecard([Answered(example, "", ["?"], grades)]).figures()
    assert (figures["accuracy"], figures["num_unreadable"]) == (0.0, 1)
    assert "by_type" not in figures


def test_nothing_to_evaluate_and_too_large_a_k_are_errors():
    with pytest.raises(InvalidRequestError, match="no example"):
        evaluate_examples(None, "run", None, None, [], EvaluationParams())
    with pytest.raises(InvalidRequestError, match="at least k answers"):
        EvaluationParams(CandidateParams(2, 1.0), ks=(3,))


def test_intervals_are_honest_for_few_questions_and_where_all_agree():
    mean, low, high = mean_with_interval([0.25])
    assert mean == 0.25
    assert low < 0.1
    assert high > 0.7
    mean, low, high = mean_with_interval([1.0, 1.0, 1.0])
    assert (mean, high) == (1.0, 1.0)
    assert low < 0.5
