"""Stages 1 to 3 and the report of stage 6, with a scripted teacher and judge: what is drawn, kept, split, counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.dataset.finance import (
    QUESTION_TYPES,
    DistilledRow,
    RawRow,
    RLRow,
    SFTRow,
    as_jsonl,
    normalised_question,
    read_records,
)
from eztinker.errors import EZTinkerError, InvalidRequestError
from eztinker.grading.judge import read_reason
from eztinker.recipes.finance import distil, filter, prepare
from eztinker.recipes.finance.answering import Output
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.eval_report import figures
from eztinker.recipes.finance.evaluation import graded
from eztinker.recipes.finance.judging import JudgeRequest, Verdict, read_judgement
from eztinker.recipes.finance.split import split_rows
from eztinker.recipes.finance.strata import quotas, stratified_sample
from eztinker.recipes.finance.teacher import TeacherAnswer, TeacherRequest
from eztinker.recipes.terminal import SilentProgress
from eztinker.rendering.finance import MARKS
from eztinker.rl.evaluation import wilson_interval

SILENT = SilentProgress()
SHARES = dict.fromkeys(QUESTION_TYPES, 0.25)


def config(root: Path, **parts: object) -> FinanceConfig:
    return FinanceConfig.model_validate({"root": root, **parts})


def raw_rows(num: int, kinds: Sequence[str] = QUESTION_TYPES) -> list[RawRow]:
    return [
        RawRow(f"q{i}", f"第{i}题：{i}加{i}是多少？", str(2 * i), kinds[i % len(kinds)], "test")
        for i in range(num)
    ]


def write_raw(root: Path, rows: Sequence[RawRow]) -> None:
    (root / "dataraw").mkdir(parents=True, exist_ok=True)
    (root / "dataraw" / "raw.jsonl").write_text(as_jsonl(rows), "utf-8")


class Teacher:
    """Right on every question; ``forgets`` lists questions whose first so many answers lack the form."""

    identity = "scripted"

    def __init__(
        self, rows: Sequence[RawRow], forgets: dict[int, int], dies_after: int = 10**6
    ) -> None:
        self.rows, self.forgets, self.left = rows, forgets, dies_after
        self.asked: list[tuple[int, int]] = []

    def answers(self, requests: Sequence[TeacherRequest]) -> Iterator[TeacherAnswer]:
        for one in requests:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.asked.append((one.index, one.attempt))
            gold = self.rows[one.index].gold_answer
            text = f"<think>把两个数相加，得到的结果正好是{gold}，所以选它。</think>\n<answer>{gold}</answer>"
            is_bad = one.attempt <= self.forgets.get(one.index, 0)
            yield TeacherAnswer(one.index, gold if is_bad else text, num_tokens=7)


class Judge:
    """Marks by the question's place; None is a verdict that cannot be read."""

    identity = "scripted"

    def __init__(self, scores: dict[str, float | None], otherwise: float | None = 8.0) -> None:
        self.scores, self.otherwise = scores, otherwise

    def verdicts(self, requests: Sequence[JudgeRequest]) -> Iterator[Verdict]:
        for one in requests:
            score = self.scores.get(one.question, self.otherwise)
            marks = None if score is None else dict.fromkeys(MARKS, score)
            yield Verdict(one.index, marks, "因为")


# Stage 1 --------------------------------------------------------------------------------------------


@given(st.integers(0, 200), st.tuples(*(st.integers(0, 9) for _ in range(3)), st.integers(1, 9)))
def test_quotas_sum_up_and_stay_within_one_of_their_share(
    total: int, shares: tuple[int, ...]
) -> None:
    wanted = dict(zip(QUESTION_TYPES, shares, strict=True))
    counts = quotas(total, wanted)
    assert sum(counts.values()) == total
    for kind, share in wanted.items():
        assert abs(counts[kind] - total * share / sum(shares)) < 1 + 1e-6


@given(
    st.lists(st.sampled_from(QUESTION_TYPES), max_size=60),
    st.integers(0, 8),
    st.integers(1, 70),
    st.integers(0, 3),
)
def test_a_sample_has_as_many_rows_as_there_can_be(
    kinds: list[str], num_kept: int, total: int, seed: int
) -> None:
    rows = [RawRow(str(i), f"q{i}", "x", kind, "s") for i, kind in enumerate(kinds)]
    kept, others = rows[:num_kept], rows[num_kept:]
    sample = stratified_sample(kept, others, total, SHARES, seed)
    assert len(sample.rows) == min(total, len(rows))
    assert len({row.id for row in sample.rows}) == len(sample.rows)
    if len(kept) <= total:
        assert set(kept) <= set(sample.rows)
    assert sample == stratified_sample(kept, others, total, SHARES, seed)
    assert {k: v["drawn"] for k, v in sample.by_type.items()} == {
        kind: sum(row.type == kind for row in sample.rows) for kind in QUESTION_TYPES
    }


def test_a_short_type_is_refilled_and_reported() -> None:
    rows = raw_rows(60, ["concept_qa"] * 2 + ["financial_calculation"] * 28)
    sample = stratified_sample([], rows, 40, SHARES, 0)
    assert sample.by_type["concept_qa"]["drawn"] == 4
    assert sample.by_type["concept_qa"]["wanted"] == 10
    assert sample.by_type["financial_calculation"]["drawn"] == 36
    assert sample.num_refilled == 26
    assert sample.rows != stratified_sample([], rows, 40, SHARES, 1).rows


def test_stage_1_adds_custom_questions_and_leaves_an_existing_file_alone(tmp_path: Path) -> None:
    local = tmp_path / "questions.jsonl"
    local.write_text(as_jsonl(raw_rows(30)), "utf-8")
    custom = tmp_path / "custom.jsonl"
    custom.write_text(
        json.dumps({"question": "第3题：3加3是多少？", "answer": "6"}) + "\n", "utf-8"
    )
    data = {"local_path": local, "custom_path": custom, "total_samples": 10}
    figures_of = prepare.run(config(tmp_path, data=data), None, SILENT)
    rows = read_records(tmp_path / "dataraw/raw.jsonl", RawRow, made_by="")
    assert len(rows) == figures_of["num_rows"] == 10
    assert [row.source for row in rows].count("custom") == figures_of["custom_rows"] == 1
    assert figures_of["left_out"] == {"question or id of a custom row": 1}
    before = (tmp_path / "dataraw/raw.jsonl").read_bytes()
    with pytest.raises(InvalidRequestError, match="--overwrite") as caught:
        prepare.run(config(tmp_path, data=data), None, SILENT)
    assert caught.value.code == "output_exists"
    gone = config(tmp_path, data={"local_path": tmp_path / "gone"}, overwrite=True)
    with pytest.raises(EZTinkerError):
        prepare.run(gone, None, SILENT)
    assert (tmp_path / "dataraw/raw.jsonl").read_bytes() == before


@pytest.mark.shared
def test_real_questions_through_stages_1_to_3(tmp_path: Path) -> None:
    real = Path(__file__).parents[5] / "shared" / "data" / "finance_raw" / "raw.jsonl"
    if not real.is_file():
        pytest.skip(f"no {real}")
    data = {"local_path": real, "total_samples": 200}
    done = prepare.run(config(tmp_path, data=data), None, SILENT)
    drawn = {kind: one["drawn"] for kind, one in done["by_type"].items()}
    assert drawn == dict(zip(QUESTION_TYPES, (80, 40, 40, 40), strict=True))
    rows = read_records(tmp_path / "dataraw/raw.jsonl", RawRow, made_by="")
    distil.run(config(tmp_path), None, SILENT, teacher=Teacher(rows, {}))
    done = filter.run(config(tmp_path), None, SILENT, judge=Judge({}))
    assert done["reasons"] == {"kept": 200}
    assert (done["num_train"], done["num_test"]) == (160, 40)


# Stage 2 --------------------------------------------------------------------------------------------


def test_the_form_is_asked_for_again_and_what_never_has_it_is_counted(tmp_path: Path) -> None:
    rows = raw_rows(6)
    write_raw(tmp_path, rows)
    teacher = Teacher(rows, {1: 1, 2: 2, 4: 9})
    done = distil.run(config(tmp_path), None, SILENT, teacher=teacher)
    assert Counter(index for index, _ in teacher.asked) == {0: 1, 1: 2, 2: 3, 3: 1, 4: 3, 5: 1}
    kept = read_records(tmp_path / "dataprocessed/distilled.jsonl", DistilledRow, made_by="")
    assert [row.id for row in kept] == ["q0", "q1", "q2", "q3", "q5"]
    assert (done["num_distilled"], done["num_without_form"]) == (5, 1)
    assert done["reasons"] == {"missing_tag": 1}
    assert done["attempts"] == {"1": 3, "2": 1, "3": 2}


def test_a_killed_distillation_goes_on_where_it_stood(tmp_path: Path) -> None:
    rows = raw_rows(8)
    write_raw(tmp_path, rows)
    with pytest.raises(KeyboardInterrupt):
        distil.run(config(tmp_path), None, SILENT, teacher=Teacher(rows, {1: 1}, dies_after=5))
    assert not (tmp_path / "dataprocessed/distilled.jsonl").exists()
    other = config(tmp_path, teacher={"max_new_tokens": 9})
    with pytest.raises(InvalidRequestError, match="max_new_tokens was 1024, now 9"):
        distil.run(other, None, SILENT, teacher=Teacher(rows, {}))
    second = Teacher(rows, {1: 1})
    distil.run(config(tmp_path), None, SILENT, teacher=second)
    assert sorted(second.asked) == [(1, 1), (1, 2), (5, 1), (6, 1), (7, 1)]
    whole = (tmp_path / "dataprocessed/distilled.jsonl").read_bytes()
    fresh = tmp_path / "fresh"
    write_raw(fresh, rows)
    distil.run(config(fresh), None, SILENT, teacher=Teacher(rows, {1: 1}))
    assert (fresh / "dataprocessed/distilled.jsonl").read_bytes() == whole
    with pytest.raises(InvalidRequestError) as caught:
        distil.run(config(tmp_path), None, SILENT, teacher=Teacher(rows, {}))
    assert caught.value.code == "output_exists"


def test_rows_that_were_made_from_others_are_said_to_be(tmp_path: Path) -> None:
    rows = raw_rows(12)
    write_raw(tmp_path, rows)
    distil.run(config(tmp_path), None, SILENT, teacher=Teacher(rows, {}))
    filter.run(config(tmp_path, use_judge=False), None, SILENT)
    with pytest.raises(InvalidRequestError) as finished:
        filter.run(config(tmp_path, use_judge=False), None, SILENT)
    assert finished.value.code == "output_exists"
    write_raw(tmp_path, rows[:-1])
    with pytest.raises(InvalidRequestError, match=r"another raw\.jsonl") as stale:
        distil.run(config(tmp_path), None, SILENT, teacher=Teacher(rows, {}))
    assert stale.value.code == "output_stale"
    distil.run(config(tmp_path, overwrite=True), None, SILENT, teacher=Teacher(rows[:-1], {}))
    with pytest.raises(InvalidRequestError, match=r"another distilled\.jsonl"):
        filter.run(config(tmp_path, use_judge=False), None, SILENT)


def test_a_teacher_without_form_is_told_and_leaves_earlier_rows_alone(tmp_path: Path) -> None:
    rows = raw_rows(4)
    write_raw(tmp_path, rows)
    distil.run(config(tmp_path), None, SILENT, teacher=Teacher(rows, {}))
    before = (tmp_path / "dataprocessed/distilled.jsonl").read_bytes()
    never = Teacher(rows, dict.fromkeys(range(4), 9))
    with pytest.raises(EZTinkerError, match="missing_tag': 4") as caught:
        distil.run(config(tmp_path, overwrite=True), None, SILENT, teacher=never)
    assert caught.value.code == "nothing_distilled"
    assert (tmp_path / "dataprocessed/distilled.jsonl").read_bytes() == before


# Stage 3 --------------------------------------------------------------------------------------------


def write_distilled(root: Path, rows: Sequence[DistilledRow]) -> None:
    (root / "dataprocessed").mkdir(parents=True, exist_ok=True)
    (root / "dataprocessed/distilled.jsonl").write_text(as_jsonl(rows), "utf-8")


def distilled(i: int, answer: str | None = None, reasoning: str | None = None) -> DistilledRow:
    gold = str(2 * i)
    answer = gold if answer is None else answer
    reasoning = (
        f"把两个数相加，得到的结果正好是{gold}，所以选它。" if reasoning is None else reasoning
    )
    text = f"<think>{reasoning}</think><answer>{answer}</answer>"
    return DistilledRow(f"q{i}", f"第{i}题：{i}加{i}是多少？", gold, QUESTION_TYPES[i % 4], text)


def test_rules_judge_and_split(tmp_path: Path) -> None:
    good = [distilled(i) for i in range(20)]
    bad = [
        distilled(20, answer="7"),
        distilled(21, reasoning="嗯"),
        distilled(22, reasoning="先想一想再想一想，答案已经很明显了，不必多说。"),
        DistilledRow("q23", "第23题", "46", "concept_qa", "46"),
        DistilledRow("twin", "第3题： 3加3是多少?", "6", "concept_qa", good[3].teacher_output),
    ]
    write_distilled(tmp_path, [*good, *bad])
    judge = Judge({good[0].question: 3.0, good[1].question: None})
    done = filter.run(config(tmp_path), None, SILENT, judge=judge)
    assert done["reasons"] == {
        "kept": 18,
        "answer: wrong": 1,
        "reasoning: reasoning_too_short": 1,
        "reasoning: answer_not_in_reasoning": 1,
        "form: missing_tag": 1,
        "duplicate_question": 1,
        "judge_score_low": 1,
        "judge_unreadable": 1,
    }
    assert done["judge"]["num_judged"] == 20
    assert done["judge"]["num_unreadable"] == 1
    assert done["judge"]["mean_marks"]["clarity"] == pytest.approx((18 * 8 + 3) / 19, abs=1e-4)
    folder = tmp_path / "dataprocessed"
    sft = read_records(folder / "sft.jsonl", SFTRow, made_by="")
    rl = read_records(folder / "rl.jsonl", RLRow, made_by="")
    test = read_records(folder / "test.jsonl", RLRow, made_by="")
    assert [row.id for row in sft] == [row.id for row in rl]
    assert (len(rl), len(test)) == (14, 4)
    assert not {row.id for row in rl} & {row.id for row in test}
    assert {row.type for row in test} == set(QUESTION_TYPES)
    assert json.loads((folder / "filter_stats.json").read_text("utf-8"))["num_kept"] == 18
    first = json.loads((folder / "sft.jsonl").read_text("utf-8").split("\n")[0])
    assert list(first) == ["id", "prompt", "response", "type"]


def test_nothing_left_is_a_message_and_earlier_rows_stay(tmp_path: Path) -> None:
    write_distilled(tmp_path, [distilled(i) for i in range(6)])
    filter.run(config(tmp_path, use_judge=False), None, SILENT)
    folder = tmp_path / "dataprocessed"
    before = {path.name: path.read_bytes() for path in folder.glob("*.json*")}
    assert set(before) == {
        "distilled.jsonl",
        "sft.jsonl",
        "rl.jsonl",
        "test.jsonl",
        "filter_stats.json",
    }
    with pytest.raises(EZTinkerError, match="judge_unreadable': 6") as caught:
        filter.run(config(tmp_path, overwrite=True), None, SILENT, judge=Judge({}, None))
    assert caught.value.code == "nothing_kept"
    assert {path.name: path.read_bytes() for path in folder.glob("*.json*")} == before


@given(st.lists(st.sampled_from(QUESTION_TYPES), min_size=2, max_size=80), st.floats(0.05, 0.95))
def test_a_split_loses_nothing_and_shares_nothing(kinds: list[str], share: float) -> None:
    rows = [DistilledRow(str(i), f"q{i}", "1", kind, "t") for i, kind in enumerate(kinds)]
    train, test = split_rows(rows, share, seed=3)
    assert sorted(row.id for row in (*train, *test)) == sorted(row.id for row in rows)
    keys = [{normalised_question(row.question) for row in part} for part in (train, test)]
    assert not keys[0] & keys[1]
    assert min(len(train), len(test)) >= 1
    for kind in set(kinds):
        num = kinds.count(kind)
        assert abs(sum(row.type == kind for row in test) - num * len(test) / len(rows)) <= 1.5
    with pytest.raises(InvalidRequestError, match="different questions"):
        split_rows([rows[0], rows[0]], share, seed=3)


# Verdicts and reports -------------------------------------------------------------------------------


def test_a_verdict_is_read_or_counted() -> None:
    text = 'x {"clarity": 8, "accuracy": 9, "completeness": 7, "concision": 6, "reason": "好"}'
    verdict = read_judgement(3, text)
    assert (verdict.score, verdict.reason, verdict.index) == (7.5, "好", 3)
    for bad in ("", "8", '{"clarity": 8}', text.replace("9", "11"), text.replace("9", '"九"')):
        assert read_judgement(0, bad).score is None
    assert read_reason("no object") == ""


def test_a_report_against_its_own_sums() -> None:
    rows = [RLRow("a", "1加1？", "2", "concept_qa"), RLRow("b", "2加2？", "4", "risk_analysis")]
    outputs = [
        Output("<think>x</think><answer>2</answer>", "stop"),
        Output("2", "stop"),
        Output("<think>x</think><answer>4</answer>", "length"),
        Output("", "prompt_too_long"),
    ]
    lines = [graded(rows[i // 2], output) for i, output in enumerate(outputs)]
    assert [line["is_correct"] for line in lines] == [True, True, False, False]
    assert [line["form"] for line in lines] == [
        "complete",
        "missing_tag",
        "length",
        "prompt_too_long",
    ]
    scores = (9.0, 3.0, None, 0.0)
    for line, score in zip(lines, scores, strict=True):
        marks = None if score is None else dict.fromkeys(MARKS, score) if score else {}
        line["judge"] = {"marks": marks, "score": score, "reason": ""}
    found = figures(lines)
    assert (found["num_questions"], found["num_answers"]) == (2, 4)
    assert (found["format_rate"], found["accuracy"]) == (0.25, 0.5)
    assert found["accuracy_ci95"] == list(wilson_interval(1.0, 2))
    judged = found["judge"]
    assert judged["score"] == pytest.approx(4.0)
    assert (judged["num_judged"], judged["num_unreadable"], judged["num_empty"]) == (3, 1, 1)
    assert judged["beside_rules"] == {
        "both": 1, "rules_only": 1, "judge_only": 0, "neither": 1, "unreadable": 1,
    }  # fmt: skip
