"""Prompts that fit, weights of 1/n, steps of whole questions, rows and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eztinker.dataset.lawshift import Articles, Case
from eztinker.errors import InvalidRequestError, NotFoundError, UnsupportedError
from eztinker.grading.legal import Verdict
from eztinker.recipes.experiment.journal import Journal
from eztinker.recipes.experiment.settings import make_settings
from eztinker.recipes.lawshift import evaluation, sample, sft
from eztinker.recipes.lawshift.asking import (
    OMISSION,
    Asker,
    answer_room,
    count_problems,
    longest_prompt,
    shortened,
)
from tests.unit.rl.fake_service import CharTokenizer

LAWS = Articles({"264-0-0": "盗窃的，处三年以下。"})


class Tokenizer(CharTokenizer):
    chat_template = "{{ messages }}"


def case(fact: str = "某甲偷窃。", articles: tuple[str, ...] = ("264-0-0",)) -> Case:
    return Case("1", fact, articles, "盗窃", 6, Verdict(frozenset({"盗窃"}), 6))


def test_a_prompt_has_facts_and_statutes() -> None:
    asked = Asker(Tokenizer(), 500).ask(case(), LAWS)
    assert "某甲偷窃。" in asked.prompt
    assert "【264-0-0】盗窃的，处三年以下。" in asked.prompt
    assert (asked.missing, asked.is_shortened) == ((), False)
    assert len(asked.tokens) == len(asked.prompt)


def test_long_facts_lose_their_middle_and_nothing_else() -> None:
    fact = "首" * 300 + "尾" * 300
    asked = Asker(Tokenizer(), 300).ask(case(fact), LAWS)
    assert asked.is_shortened
    assert OMISSION in asked.prompt
    assert 295 <= len(asked.tokens) <= 300  # as much as fits
    assert abs(asked.prompt.count("首") - asked.prompt.count("尾")) <= 1
    assert shortened("abc", 3) == "abc"


def test_statutes_that_do_not_fit_are_counted_or_refused() -> None:
    asked = [Asker(Tokenizer(), room).ask(case(), LAWS) for room in (50, 500)]
    assert [one.fits for one in asked] == [False, True]
    assert count_problems(asked)["cases_too_long"] == 1
    assert longest_prompt(asked, 500) == len(asked[1].tokens)
    with pytest.raises(InvalidRequestError, match="max_prompt_length"):
        longest_prompt(asked[:1], 50)
    with pytest.raises(InvalidRequestError, match="Case 1"):
        Asker(Tokenizer(), 50, is_strict=True).ask(case(), LAWS)


def test_training_leaves_out_what_does_not_fit(tmp_path: Path) -> None:
    rows = [
        {"fact": "某甲偷窃。", "relevant_articles": [a], "charge": "盗窃", "prison_time": 6, "response": "盗窃 | 6"}
        for a in ("1-0-0", "2-0-0")
    ]  # fmt: skip
    (tmp_path / "kept.json").write_text(json.dumps(rows), encoding="utf-8")
    laws = {"1-0-0": "短", "2-0-0": "长" * 500}
    (tmp_path / "laws.json").write_text(json.dumps(laws), encoding="utf-8")
    values = {"sampled_data": tmp_path / "kept.json", "articles_path": tmp_path / "laws.json"}
    config = make_settings(sft.Config, {**values, "max_length": 300, "max_steps": 3})
    questions = sft.read_questions(config, Tokenizer(), None)
    assert [(len(one.data), one.is_too_long) for one in questions] == [(1, False), (0, True)]
    assert [len(step) for step in sft.steps_of(questions, config)] == [1, 1, 1]
    (tmp_path / "laws.json").write_text(
        json.dumps(dict.fromkeys(laws, "长" * 500)), encoding="utf-8"
    )
    with pytest.raises(InvalidRequestError, match="max_length"):
        sft.read_questions(config, Tokenizer(), None)


def test_a_missing_statute_is_counted_or_refused() -> None:
    unknown = case(articles=("264-0-0", "999-0-0"))
    assert Asker(Tokenizer(), 500).ask(unknown, LAWS).missing == ("999-0-0",)
    with pytest.raises(NotFoundError, match="999-0-0"):
        Asker(Tokenizer(), 500, is_strict=True).ask(unknown, LAWS)


def test_without_a_chat_template_nothing_is_asked() -> None:
    with pytest.raises(UnsupportedError, match="chat template"):
        Asker(CharTokenizer(), 500)


def test_the_room_of_an_answer() -> None:
    assert answer_room(2048, 500, None) == 2048
    assert answer_room(2048, 500, 1000) == 500
    with pytest.raises(InvalidRequestError, match="max_prompt_length"):
        answer_room(2048, 995, 1000)


# Training -----------------------------------------------------------------------------------------


def datum(num_prompt: int, num_answer: int) -> dict[str, list[Any]]:
    length = num_prompt + num_answer
    weights = [0.0] * num_prompt + [1.0] * num_answer
    targets = [-100] * num_prompt + list(range(num_answer))
    return {"input_ids": list(range(length)), "target_ids": targets, "weights": weights}


def question(num_answers: int) -> sft.Question:
    data = [sft.weighted(datum(3, 2 + i), 1 / num_answers) for i in range(num_answers)]
    return sft.Question(data, 0, False)


def test_every_token_of_an_answer_has_weight_one_nth() -> None:
    weighted = sft.weighted(datum(3, 4), 1 / 8)
    assert weighted["weights"] == [0, 0, 0] + [1 / 8] * 4
    assert weighted["target_ids"][:3] == [-100] * 3
    both = sft.weighted(datum(3, 4), 1 / 8, train_on_prompt=True)
    assert both["weights"] == [0] + [1 / 8] * 6
    assert both["target_ids"][1:3] == both["input_ids"][1:3]


def test_a_step_divides_by_its_questions() -> None:
    data = sft.step_data([question(2), question(1)])
    assert [max(one["weights"]) for one in data] == [1 / 4, 1 / 4, 1 / 2]


def test_steps_hold_whole_questions_and_every_question_once_an_epoch() -> None:
    questions = [question(n) for n in (1, 8, 3, 2, 5, 1, 1, 4)]
    config = make_settings(sft.Config, {"num_train_epochs": 2, "report_to": "none"})
    steps = sft.steps_of(questions, config)
    epoch = steps[: len(steps) // 2]
    flat = [id(one) for step in epoch for one in step]
    assert sorted(flat) == sorted(map(id, questions))
    assert all(sum(len(one.data) for one in step) >= config.batch_size for step in epoch[:-1])
    assert sft.steps_of(questions, config) == steps
    half = make_settings(sft.Config, {"num_train_epochs": 0.5, "report_to": "none"})
    assert 0 < len(sft.steps_of(questions, half)) <= len(epoch)


def test_defaults_are_those_of_the_document() -> None:
    config = make_settings(sft.Config, {})
    found = {name: getattr(config, name) for name in (
        "max_length", "lora_r", "lora_alpha", "lora_dropout", "num_train_epochs", "per_device_train_batch_size",
        "gradient_accumulation_steps", "learning_rate", "warmup_steps", "logging_steps", "save_steps", "weight_decay",
        "load_in_4bit", "lr_scheduler_type",
    )}  # fmt: skip
    assert list(found.values()) == [
        4096,
        64,
        16,
        0.05,
        3.0,
        2,
        8,
        2e-4,
        100,
        10,
        100,
        0.01,
        True,
        "cosine",
    ]
    assert str(config.sampled_data) == "train/sampled_data.json"
    assert str(config.output_dir) == "train/checkpoints"
    sampling = make_settings(sample.Config, {})
    assert (
        sampling.num_samples,
        sampling.temperature,
        sampling.top_p,
        sampling.max_new_tokens,
    ) == (8, 0.8, 0.95, 2048)
    assert str(sampling.training_data) == "LawShift/training_set.json"
    assert str(sampling.output) == "train/sampled_data.json"


def test_max_steps_is_kept_beyond_the_epochs() -> None:
    config = make_settings(sft.Config, {"max_steps": 23, "report_to": "none"})
    assert len(sft.steps_of([question(1), question(2)], config)) == 23


def test_no_setting_is_ignored() -> None:
    ratio = make_settings(sft.Config, {"warmup_steps": 0, "warmup_ratio": 0.3})
    assert ratio.schedule(10).num_warmup_steps == 3
    for wrong in (
        {"load_in_8bit": True},
        {"init_from": "no-checkpoint"},
        {"save_steps": None, "save_total_limit": 2},
        {"lr_scheduler_type": "constant", "warmup_steps": 5},
    ):
        with pytest.raises(InvalidRequestError):
            make_settings(sft.Config, wrong)


def test_warm_up_leaves_steps_to_train() -> None:
    config = make_settings(sft.Config, {})
    assert config.schedule(10).rate(9) < config.schedule(10).rate(5)
    assert config.schedule(1).rate(0) > 0


# Sampling and figures -----------------------------------------------------------------------------


def test_rows_are_the_documented_ones() -> None:
    answers = [
        {"text": "盗窃罪 | 6", "reason": "correct"},
        {"text": "盗窃 | 半年", "reason": "correct"},
    ]
    answers.append({"text": "?", "reason": "no_verdict"})
    rows = sample.kept_rows(case(), {"answers": answers})
    assert rows[0] == {
        "fact": "某甲偷窃。", "relevant_articles": ["264-0-0"], "charge": "盗窃", "prison_time": 6,
        "response": "盗窃罪 | 6", "num_correct_for_this_sample": 2,
    }  # fmt: skip
    assert len(rows) == 2


def test_a_journal_survives_a_kill_and_refuses_other_settings(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    with Journal.open(output, {"seed": 1}, overwrite=False) as journal:
        journal.add({"index": 0, "x": 1})
    path = next(tmp_path.glob(".*journal*"))
    with path.open("a") as file:
        file.write('{"index": 1, "x"')  # cut by a kill
    with Journal.open(output, {"seed": 1}, overwrite=False) as journal:
        assert journal.done == {0: {"index": 0, "x": 1}}
        journal.add({"index": 1, "x": 2})
    with pytest.raises(InvalidRequestError, match="seed was 1, now 2"):
        Journal.open(output, {"seed": 2}, overwrite=False)
    with Journal.open(output, {"seed": 1}, overwrite=False) as journal:
        assert sorted(journal.done) == [0, 1]
        output.write_text("[]")
        journal.finish()
    with pytest.raises(InvalidRequestError, match="finished"):
        Journal.open(output, {"seed": 1}, overwrite=False)
    with Journal.open(output, {"seed": 2}, overwrite=True) as journal:
        assert journal.done == {}


def test_several_answers_are_averaged_within_a_case() -> None:
    def answer(success: bool) -> dict[str, Any]:
        reason = "correct" if success else "wrong_term"
        return {"success": success, "is_exact": success, "reason": reason}

    predictions = [
        {"success": 0.5, "answers": [answer(True), answer(False)]},
        {"success": 1.0, "answers": [answer(True), answer(True)]},
    ]
    found = evaluation.figures(predictions)
    assert (found["accuracy"], found["exact"], found["num_cases"]) == (0.75, 0.75, 2)
    assert found["ci95"][0] < 0.75 < found["ci95"][1]
    assert found["reasons"] == {"correct": 3, "wrong_term": 1}
    with pytest.raises(InvalidRequestError, match="num_samples"):
        make_settings(evaluation.Config, {"num_samples": 3})
