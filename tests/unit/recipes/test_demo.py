"""The demo's choices; the whole of it runs in tests/e2e."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from eztinker.errors import InvalidRequestError, ServerUnreachableError, UnsupportedError
from eztinker.recipes.demo import (
    NEXT_COMMAND,
    DemoOptions,
    DemoReport,
    demo_config,
    demo_datasets,
    run_demo,
)
from eztinker.recipes.terminal import SilentProgress

REPORT = DemoReport(
    accuracy_before=0.35,
    accuracy_before_ci95=[0.29, 0.42],
    accuracy_after=0.7,
    accuracy_after_ci95=[0.63, 0.76],
    sampled_accuracy_before=0.2,
    sampled_accuracy_before_ci95=[0.15, 0.26],
    sampled_accuracy_after=0.5,
    sampled_accuracy_after_ci95=[0.43, 0.57],
    eval_size=200,
    seconds=60.0,
    seed=0,
    plot="p.png",
    results="r.json",
    run_id="run_0",
    model="nano",
    dataset="generated-math",
    num_trained=150,
    advice=[],
)


def test_json_has_the_documented_fields():
    assert {
        "accuracy_before",
        "accuracy_after",
        "sampled_accuracy_before",
        "sampled_accuracy_after",
        "eval_size",
        "seconds",
        "seed",
        "plot",
        "run_id",
        "model",
    } <= set(asdict(REPORT))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_summary_ends_with_the_command_for_gsm8k(monkeypatch: pytest.MonkeyPatch, language: str):
    monkeypatch.setenv("EZTINKER_LANG", language)
    summary = REPORT.summary()
    assert "35.0% (29% - 42%)" in summary
    assert "70.0% (63% - 76%)" in summary
    assert "p.png" in summary
    assert summary.endswith(NEXT_COMMAND)
    assert NEXT_COMMAND not in replace(REPORT, dataset="gsm8k").summary()


def test_nano_and_others_get_settings_of_their_own():
    assert demo_config(DemoOptions()).learning_rate == 2e-3
    large = demo_config(DemoOptions(model="Qwen/Qwen2-0.5B-Instruct", dataset="gsm8k"))
    assert (large.learning_rate, large.max_new_tokens) == (2e-4, 256)
    assert demo_config(DemoOptions(num_candidates=7, seed=3)).num_candidates == 7


def test_one_file_is_never_train_and_test_at_once(tmp_path: Path):
    rows = [{"question": f"What is {i}?", "answer": f"#### {i}"} for i in range(10)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, test = demo_datasets(DemoOptions(dataset="gsm8k", data_path=path))
    sides = [{part.get_example_question(i) for i in range(len(part))} for part in (train, test)]
    assert [len(side) for side in sides] == [8, 2]
    assert not sides[0] & sides[1]


def test_built_in_problems_are_split_by_identity_and_follow_the_seed():
    train, test = demo_datasets(DemoOptions(max_samples=50, eval_size=50))
    assert (train.split, test.split) == ("train", "test")
    other, _ = demo_datasets(DemoOptions(max_samples=50, eval_size=50, seed=1))
    assert other.get_example_question(0) != train.get_example_question(0)


@pytest.mark.parametrize(
    "options", [DemoOptions(data_path="x.jsonl"), DemoOptions(dataset="sharegpt")]
)
def test_what_the_demo_cannot_do_is_refused(options: DemoOptions):
    with pytest.raises(UnsupportedError):
        run_demo(options, SilentProgress())


def test_sizes_are_checked_before_a_server_is_started():
    with pytest.raises(InvalidRequestError):
        run_demo(DemoOptions(num_candidates=0), SilentProgress())


def test_a_named_server_that_does_not_answer_is_an_error():
    with pytest.raises(ServerUnreachableError):
        run_demo(DemoOptions(base_url="http://127.0.0.1:9"), SilentProgress())
