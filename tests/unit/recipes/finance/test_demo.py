"""The demonstration: its questions, its scripted teacher and judge, its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from eztinker.dataset.finance import normalised_question
from eztinker.dataset.generated import accounts, finance
from eztinker.errors import InvalidRequestError
from eztinker.grading.finance import grade_finance
from eztinker.grading.reasoning_form import read_form
from eztinker.recipes.finance import demo
from eztinker.recipes.finance.judging import JudgeRequest
from eztinker.recipes.finance.scripted import ScriptedJudge, ScriptedTeacher, sums_in
from eztinker.recipes.finance.teacher import TeacherRequest

PROBLEMS = demo.draw_problems(400, seed=1)


def test_questions_differ_and_are_of_kinds_that_nano_was_never_shown() -> None:
    assert len({normalised_question(question) for question in PROBLEMS}) > 0.99 * len(PROBLEMS)
    known = {template.kind for template in finance.TEMPLATES}
    assert not known & {template.kind for template in accounts.TEMPLATES}
    assert demo.draw_problems(400, seed=1) == PROBLEMS
    assert set(demo.draw_problems(400, seed=2)) != set(PROBLEMS)


def test_the_checker_takes_every_gold_answer() -> None:
    for question, problem in PROBLEMS.items():
        assert grade_finance(
            f"<answer>{problem.answer}</answer>", problem.answer, question
        ).is_correct
        for miss in problem.near_misses:
            assert not grade_finance(
                f"<answer>{miss}</answer>", problem.answer, question
            ).is_correct


def test_the_teacher_has_all_its_habits_and_keeps_to_its_script() -> None:
    requests = [TeacherRequest(i, question, 1) for i, question in enumerate(PROBLEMS)]
    teacher = ScriptedTeacher(PROBLEMS, seed=1)
    texts = [answer.text for answer in teacher.answers(requests)]
    assert texts == [answer.text for answer in ScriptedTeacher(PROBLEMS, 1).answers(requests)]
    forms = [read_form(text) for text in texts]
    rows = list(zip(forms, PROBLEMS.values(), strict=True))
    formed = [(form, problem) for form, problem in rows if form.is_complete]
    assert 0.85 < len(formed) / len(rows) < 0.98
    assert 0.85 < sum(f.answer == p.answer for f, p in formed) / len(formed) < 0.98
    num_sums = [sums_in(form.reasoning)[0] for form, _ in formed]
    assert min(num_sums.count(0), num_sums.count(1)) > 0.1 * len(formed)
    worked = sum(form.reasoning == problem.solution for form, problem in formed)
    assert 0.3 < worked / len(formed) < 0.7
    with pytest.raises(InvalidRequestError, match="no solution"):
        list(teacher.answers([TeacherRequest(0, "？", 1)]))


@pytest.mark.parametrize(
    ("reasoning", "is_kept"),
    [("2 * 3 = 6。6 - 1 = 5。", True), ("直接看最后一步：6 - 1 = 5。", True), ("凭经验知道是5。", False),
     ("2 * 3 = 7。7 - 1 = 5。", True)],
)  # fmt: skip
def test_the_judge_drops_what_shows_no_work(reasoning: str, is_kept: bool) -> None:
    output = f"<think>{reasoning}</think><answer>5</answer>"
    (verdict,) = ScriptedJudge().verdicts([JudgeRequest(3, "？", "5", output)])
    assert verdict.index == 3
    assert verdict.score is not None
    assert (verdict.score >= 6.0) is is_kept


def test_sums_are_worked_out_again() -> None:
    assert sums_in("500 * 6 / 100 = 30万元。30 - 1 = 28万元。") == (2, 1)
    assert sums_in("没有算式") == (0, 0)


def test_its_settings_are_the_pipelines(tmp_path: Path) -> None:
    config = demo.pipeline_config(demo.Config(output_dir=tmp_path, grpo_steps=3))
    assert config.grpo.max_steps == 3
    assert (config.grpo.format_reward_weight, config.grpo.accuracy_reward_weight) == (0.3, 0.7)
    assert config.model.base_model == "nano"
    assert config.stages == "1-8"
