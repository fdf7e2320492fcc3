"""Accuracy and its interval."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import InvalidRequestError
from eztinker.rl.candidates import CandidateParams, examples_of
from eztinker.rl.evaluation import measure_accuracy, wilson_interval
from tests.unit.rl.fake_service import CharTokenizer, FakeClient, SumDataset


@pytest.mark.parametrize(
    ("num_correct", "num_examples", "low", "high"),
    # At the ends the interval has a closed form: z² / (n + z²).
    [
        (10, 20, 0.29929, 0.70071),
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (1, 3, 0.06149, 0.79234),
    ],
)
def test_wilson_interval_against_known_values(num_correct, num_examples, low, high):
    assert wilson_interval(num_correct, num_examples) == pytest.approx((low, high), abs=1e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_holds_the_share_and_stays_in_range(counts):
    num_correct, num_examples = counts
    low, high = wilson_interval(num_correct, num_examples)
    assert 0 <= low <= num_correct / num_examples <= high <= 1


@pytest.mark.parametrize("counts", [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(InvalidRequestError):
        wilson_interval(*counts)


def test_every_example_is_answered_once_and_graded():
    client = FakeClient()
    run_id = client.create_run("nano", lora_rank=1, lora_alpha=2, lora_config={})
    client.runs[run_id].step = 100
    dataset = SumDataset(20)
    seen = []

    def track(answers):
        for answer in answers:
            seen.append(answer)
            yield answer

    greedy = CandidateParams(4, 0.8).greedy()
    accuracy = measure_accuracy(
        client, run_id, CharTokenizer(), dataset, examples_of(dataset), greedy, track=track
    )
    assert accuracy.num_examples == len(seen) == len(client.samples) == 20
    assert {(s["temperature"], s["num_samples"]) for s in client.samples} == {(0.0, 1)}
    expected = sum(
        dataset.evaluate_answer(str(found[0]), example.ground_truth)["is_correct"]
        for example, found in seen
    )
    assert accuracy.num_correct == expected > 0
    assert accuracy.value == accuracy.mean_score == expected / 20


def test_answers_without_math_verify_are_counted():
    class Unverified(SumDataset):
        def evaluate_answer(self, text, truth, question=""):
            return super().evaluate_answer(text, truth) | {"math_verify": "unavailable"}

    client = FakeClient()
    run_id = client.create_run("nano", lora_rank=1, lora_alpha=2, lora_config={})
    dataset = Unverified(3)
    accuracy = measure_accuracy(
        client, run_id, CharTokenizer(), dataset, examples_of(dataset), CandidateParams(1)
    )
    assert accuracy.num_unverified == 3


def test_no_examples_are_refused():
    with pytest.raises(InvalidRequestError):
        measure_accuracy(
            FakeClient(), "run", CharTokenizer(), SumDataset(0), [], CandidateParams(1)
        )
