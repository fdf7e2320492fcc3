"""The documented functions, against a service without tensors."""

from pathlib import Path

import pytest

from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.rl.candidates import Candidate
from eztinker.rl.rejection_sampler import (
    create_training_run,
    generate_candidates,
    load_buffer,
    populate_buffer,
    select_best,
    select_best_candidate_and_train,
)
from tests.unit.rl.fake_service import END, FakeClient, SumDataset


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def run_id(client: FakeClient) -> str:
    return create_training_run("nano", client=client)


def test_alpha_defaults_to_twice_the_rank(client: FakeClient):
    runs = [create_training_run("m", r, client=client) for r in (1, 4)]
    assert [client.runs[run].lora["lora_alpha"] for run in runs] == [2, 8]
    chosen = create_training_run("m", 4, 6, 0.1, target_modules=("c_attn", "c_proj"), client=client)
    assert client.runs[chosen].lora == {
        "r": 4,
        "lora_alpha": 6,
        "lora_dropout": 0.1,
        "target_modules": ["c_attn", "c_proj"],
    }


def test_generated_candidates_are_answers_without_the_prompt(client: FakeClient, run_id: str):
    question, prompt, _ = SumDataset(5).get_example_question(3)
    candidates = generate_candidates(prompt, question, run_id, 4, 0.5, seed=1, client=client)
    assert len(candidates) == 4
    assert all(isinstance(text, str) and "Question" not in text for text in candidates)
    assert len(client.samples) == 1
    assert client.num_tokenizers == 1
    generate_candidates(prompt, question, run_id, client=client)
    assert client.num_tokenizers == 1  # fetched once


def test_selection_prefers_correct_then_score_then_confidence_then_first():
    dataset = SumDataset(5)
    assert select_best(["no", "#### 5", " #### 4", "#### 4"], "4", "", dataset).index == 2
    assert select_best(["no", "#### 5"], "4", "", dataset).index == 1
    cut = Candidate("#### 4", (), (1,), "length")
    assert select_best([cut, "#### 4"], "4", "", dataset).index == 1
    assert select_best(["#### 4", "x", "#### 4"], "4", "", dataset).num_correct == 2
    with pytest.raises(InvalidRequestError):
        select_best([], "4", "", dataset)


def test_training_takes_one_step_on_the_best_correct_candidate(client: FakeClient, run_id: str):
    dataset = SumDataset(5)
    question, prompt, truth = dataset.get_example_question(2)
    result = select_best_candidate_and_train(
        run_id, prompt, ["no", " #### 4"], truth, question, dataset, client=client
    )
    assert result == {
        "selected_index": 1,
        "selected_score": 1.0,
        "selected_is_correct": True,
        "confidence": 0.9,
        "selected_text": " #### 4",
        "trained": True,
    }
    assert client.runs[run_id].step == 1
    (datum,) = client.runs[run_id].trained
    answer = [*map(ord, " #### 4"), END]
    assert datum["target_ids"] == [-100] * len(prompt) + answer


def test_wrong_candidates_are_not_trained_unless_asked(client: FakeClient, run_id: str):
    dataset = SumDataset(5)
    question, prompt, truth = dataset.get_example_question(2)
    arguments = (run_id, prompt, ["no", "none"], truth, question, dataset)
    result = select_best_candidate_and_train(*arguments, client=client)
    assert result["trained"] is False
    assert "none of the 2" in result["skip_reason"]
    assert client.runs[run_id].step == 0
    result = select_best_candidate_and_train(*arguments, train_on_incorrect=True, client=client)
    assert result["trained"] is True
    assert "skip_reason" not in result
    assert client.runs[run_id].step == 1


def test_buffer_holds_the_best_of_each_example(client: FakeClient, run_id: str, tmp_path: Path):
    path = tmp_path / "buffer.jsonl"
    rows = populate_buffer(SumDataset(6), run_id, path, 4, 3, 0.8, seed=0, client=client)
    assert rows == load_buffer(path)
    assert [row["example_id"] for row in rows] == [0, 1, 2, 3]
    assert {row["num_candidates"] for row in rows} == {3}
    assert any(row["is_correct"] for row in rows)
    assert client.runs[run_id].step == 0


def test_filling_continues_where_it_ended_and_gives_the_same(
    client: FakeClient, run_id: str, tmp_path: Path
):
    dataset, path = SumDataset(6), tmp_path / "buffer.jsonl"
    whole = populate_buffer(dataset, run_id, tmp_path / "whole.jsonl", 6, 3, seed=0, client=client)
    populate_buffer(dataset, run_id, path, 2, 3, seed=0, client=client)
    torn = path.read_bytes()[:-5]
    path.write_bytes(torn)
    num_before = len(client.samples)
    assert populate_buffer(dataset, run_id, path, 6, 3, seed=0, client=client) == whole
    assert len(client.samples) - num_before == 5


@pytest.mark.parametrize(
    ("dataset", "candidates", "temperature", "reason"),
    [
        (SumDataset(4, start=7), 3, 0.8, "not this data set's"),
        (SumDataset(4), 3, 0.5, "temperature"),
        (SumDataset(4), 2, 0.8, "candidates"),
    ],
)
def test_a_buffer_made_differently_is_refused(
    client: FakeClient, run_id: str, tmp_path: Path, dataset, candidates, temperature, reason
):
    path = tmp_path / "buffer.jsonl"
    populate_buffer(SumDataset(4), run_id, path, 4, 3, 0.8, client=client)
    with pytest.raises(InvalidRequestError, match=reason):
        populate_buffer(dataset, run_id, path, 4, candidates, temperature, client=client)


def test_unknown_run_is_not_found(client: FakeClient):
    with pytest.raises(NotFoundError, match="run_nope"):
        generate_candidates("p", "q", "run_nope", client=client)
