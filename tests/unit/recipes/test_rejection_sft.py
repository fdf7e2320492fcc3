"""The recipe against a service without tensors: phases, files, resumption."""

import json
from pathlib import Path
from typing import Any

import pytest

from eztinker.errors import InvalidRequestError, JobFailedError
from eztinker.recipes.rejection_config import RejectionSFTConfig
from eztinker.recipes.rejection_sft import run_rejection_sft
from eztinker.recipes.terminal import SilentProgress
from eztinker.rl.buffer import FIELDS, load_buffer
from tests.unit.rl.fake_service import FakeClient, SumDataset

TRAIN, TEST = SumDataset(24), SumDataset(40, start=100)


class Notes(SilentProgress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def config(folder: Path, **changes: Any) -> RejectionSFTConfig:
    settings = {"base_model": "nano", "max_samples": 24, "eval_size": 40, "epochs": 2} | changes
    return RejectionSFTConfig(output_dir=folder, batch_size=4, **settings)


def run(client: FakeClient, settings: RejectionSFTConfig, notes: Notes | None = None) -> Any:
    return run_rejection_sft(settings, client, TRAIN, TEST, notes)


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZTINKER_LANG", "en")


def test_it_raises_the_accuracy_and_writes_the_documented_files(tmp_path: Path):
    client = FakeClient()
    report = run(client, config(tmp_path))
    results = json.loads((tmp_path / "rejection_sft_results.json").read_text())
    assert set(results) == {"config", "training_metrics", "evaluation_metrics", "buffer_size"}
    assert results == report.as_dict()
    assert results["buffer_size"] == 24
    assert results["config"]["run_id"] in client.runs
    assert results["config"]["lora_rank"] == 1
    assert results["config"]["lora_alpha"] == 2
    first, last = results["training_metrics"]
    assert [first["epoch"], last["epoch"]] == [1, 2]
    assert (
        first["test_accuracy_before"] < first["test_accuracy_after"] == last["test_accuracy_before"]
    )
    assert last["mean_correct_candidates"] > first["mean_correct_candidates"]
    history = results["evaluation_metrics"]["history"]
    assert [entry["epoch"] for entry in history] == [0, 1, 2]
    for entry in history:
        low, high = entry["ci95"]
        assert low <= entry["accuracy"] == entry["num_correct"] / 40 <= high
    rows = load_buffer(tmp_path / "rejection_buffer.jsonl")
    assert set(FIELDS) <= set(rows[0])
    assert (tmp_path / "rejection_sft.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_epoch_trains_the_buffer_and_later_ones_sample_anew(tmp_path: Path):
    client = FakeClient()
    report = run(client, config(tmp_path))
    candidates = [s for s in client.samples if s["temperature"] > 0]
    assert len(candidates) == 2 * 24
    assert len({s["seed"] for s in candidates}) == 48
    rows = load_buffer(tmp_path / "rejection_buffer.jsonl")
    assert all(row["trained"] == row["is_correct"] for row in rows)
    first = report.training_metrics[0]
    assert first["num_trained"] == sum(row["is_correct"] for row in rows)
    assert first["num_steps"] == -(-first["num_trained"] // 4) == len(first["losses"])


def test_only_correct_answers_are_trained_and_held_out_problems_never(tmp_path: Path):
    client = FakeClient()
    report = run(client, config(tmp_path))
    (trained,) = (r.trained for r in client.runs.values())
    texts = ["".join(map(chr, datum["input_ids"])) for datum in trained]
    assert len(texts) == report.num_trained > 0
    assert not any("no" in text.rpartition("####")[2] for text in texts)
    assert not any("What is 1" in text and int(text.split()[3]) >= 100 for text in texts)
    assert all(0 <= int(text.split(" is ")[1].split(" ")[0]) < 24 for text in texts)


def test_equal_seeds_give_equal_results(tmp_path: Path):
    reports = [run(FakeClient(), config(tmp_path / name, seed=5)) for name in ("a", "b")]
    assert reports[0].evaluations == reports[1].evaluations
    assert reports[0].losses == reports[1].losses


def test_train_on_incorrect_takes_every_example(tmp_path: Path):
    report = run(FakeClient(), config(tmp_path, epochs=1, train_on_incorrect=True))
    assert report.training_metrics[0]["num_trained"] == 24


def test_sampled_accuracy_on_request(tmp_path: Path):
    client = FakeClient()
    report = run(client, config(tmp_path, epochs=1, evaluate_sampled=True))
    assert {"sampled_accuracy", "sampled_ci95"} <= set(report.evaluations[0])
    assert sum(s["temperature"] == 1.0 for s in client.samples) == 80


def test_checkpoints_have_the_documented_names(tmp_path: Path):
    client = FakeClient()
    run(client, config(tmp_path, checkpoint=True))
    (only,) = client.runs.values()
    assert list(only.checkpoints) == ["rejection_sft_epoch_1", "rejection_sft_epoch_2"]


# Interruption and resumption --------------------------------------------------------------------------


class InterruptedHereError(Exception):
    pass


def test_interrupted_filling_continues_with_what_is_missing(tmp_path: Path):
    client = FakeClient()
    whole = run(FakeClient(), config(tmp_path / "whole"))

    class Stopping(SilentProgress):
        def track(self, label, items, total):
            for i, item in enumerate(items):
                if i == 10:
                    raise InterruptedHereError
                yield item

    folder = tmp_path / "part"
    with pytest.raises(InterruptedHereError):
        run_rejection_sft(config(folder), client, TRAIN, TEST, Stopping())
    assert len(load_buffer(folder / "rejection_buffer.jsonl")) == 10
    num_before = len(client.samples)
    report = run(client, config(folder))
    assert sum(s["temperature"] > 0 for s in client.samples[num_before:]) == 14 + 24
    assert len(client.runs) == 1
    assert report.evaluations == whole.evaluations


def test_a_finished_run_goes_on_with_more_epochs(tmp_path: Path):
    client = FakeClient()
    run(client, config(tmp_path))
    num_before = len(client.samples)
    again = run(client, config(tmp_path))
    assert len(client.samples) == num_before  # nothing was left to do
    more = run(client, config(tmp_path, epochs=3))
    assert len(client.runs) == 1
    assert more.training_metrics[:2] == again.training_metrics
    assert [m["epoch"] for m in more.training_metrics] == [1, 2, 3]


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_an_interrupted_epoch_continues_at_its_step(
    epoch: int, checkpoint: bool, tmp_path: Path
) -> None:
    client = FakeClient()
    whole = run(FakeClient(), config(tmp_path / "whole", checkpoint=checkpoint))
    settings = config(tmp_path / "part", checkpoint=checkpoint)
    first = whole.training_metrics[0]["num_steps"]
    client.fail_after_steps = 2 if epoch == 1 else first + 1
    with pytest.raises(JobFailedError):
        run(client, settings)
    (only,) = client.runs.values()
    assert only.step == client.fail_after_steps
    client.fail_after_steps, num_before = None, len(client.samples)
    report = run(client, settings)
    fresh = 24 if epoch == 1 else 0  # epoch 2's candidates are kept while it is not on record
    assert sum(s["temperature"] > 0 for s in client.samples[num_before:]) == fresh
    assert report.evaluations == whole.evaluations
    assert report.losses == whole.losses
    assert len(client.runs) == 1
    assert not list((tmp_path / "part").glob("rejection_epoch_*"))


def test_a_run_that_something_else_trained_is_refused(tmp_path: Path) -> None:
    client = FakeClient()
    run(client, config(tmp_path, epochs=1))
    (only,) = client.runs.values()
    only.step += 100
    with pytest.raises(InvalidRequestError, match="something else has trained it"):
        run(client, config(tmp_path))


def test_run_lost_by_the_server_is_said_and_epochs_start_anew_from_the_buffer(tmp_path: Path):
    first = run(FakeClient(), config(tmp_path))
    client, notes = FakeClient(), Notes()
    report = run_rejection_sft(config(tmp_path), client, TRAIN, TEST, notes)
    assert any("no longer has run" in line for line in notes.lines)
    assert (
        sum(s["temperature"] > 0 for s in client.samples) == 24
    )  # epoch 2 only: the buffer is kept
    assert report.evaluations == first.evaluations


def test_a_buffer_made_with_something_else_is_refused_by_name(tmp_path: Path):
    run(FakeClient(), config(tmp_path, epochs=1))
    for changes, name in [
        ({"num_candidates": 2}, "num_candidates was 4, now 2"),
        ({"base_model": "gpt2"}, "base_model was 'nano', now 'gpt2'"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"max_samples": 12}, "training_data"),
    ]:
        with pytest.raises(InvalidRequestError, match=name) as caught:
            run(FakeClient(), config(tmp_path, epochs=1, **changes))
        assert "--reset-buffer" in caught.value.message
    with pytest.raises(InvalidRequestError, match="training_data"):
        run_rejection_sft(config(tmp_path, epochs=1), FakeClient(), SumDataset(24, 50), TEST)


def test_reset_buffer_starts_afresh(tmp_path: Path):
    client = FakeClient()
    run(client, config(tmp_path, epochs=1))
    report = run(client, config(tmp_path, epochs=1, num_candidates=2, reset_buffer=True))
    assert report.config["num_candidates"] == 2
    assert len(client.runs) == 2


def test_a_stray_buffer_without_its_state_is_refused(tmp_path: Path):
    run(FakeClient(), config(tmp_path, epochs=1))
    (tmp_path / "rejection_sft_state.json").unlink()
    with pytest.raises(InvalidRequestError, match="says what it was made with"):
        run(FakeClient(), config(tmp_path, epochs=1))


@pytest.mark.parametrize(
    "name", ["max_samples", "num_candidates", "epochs", "eval_size", "batch_size"]
)
def test_sizes_below_one_are_refused(name: str):
    with pytest.raises(InvalidRequestError, match=name):
        RejectionSFTConfig(**{name: 0})


# What is said at the end ------------------------------------------------------------------------------


def test_table_has_a_line_before_training_and_one_for_each_epoch(tmp_path: Path):
    report = run(FakeClient(), config(tmp_path))
    header, *lines = report.table().splitlines()
    assert [line.split()[0] for line in lines] == ["before", "1", "2"]
    assert len({len(line) for line in [header, *lines[1:]]}) == 1
    assert report.advice() == []


def test_accuracy_that_does_not_rise_gets_advice(tmp_path: Path):
    class Hopeless(SumDataset):
        def evaluate_answer(self, text, truth, question=""):
            return {"score": 0.0, "is_correct": False, "confidence": 0.0}

    client = FakeClient()
    report = run_rejection_sft(config(tmp_path), client, Hopeless(24), Hopeless(5, 100))
    (advice,) = report.advice()
    assert "nothing was trained" in advice
    assert client.runs[report.run_id].step == 0
