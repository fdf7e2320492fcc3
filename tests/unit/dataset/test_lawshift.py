"""Cases, statutes and folders as files hold them; each mistake is named with file, line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eztinker.dataset.base import get_dataset
from eztinker.dataset.lawshift import (
    LABELS,
    canonical_id,
    find_folders,
    label_of,
    read_articles,
    read_cases,
    read_folder,
)
from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.recipes.lawshift.generated import CHANGES, write_generated
from eztinker.rendering.judgment import NEW_LAW

CASE = {"fact": "某甲偷窃。", "relevant_articles": ["264-0-0"], "charge": "盗窃", "prison_time": 6}


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def test_a_case_is_read(tmp_path: Path) -> None:
    (case, life) = read_cases(write(tmp_path / "c.json", [CASE, {**CASE, "prison_time": 10001}]))
    assert (case.verdict.charges, case.verdict.term) == ({"盗窃"}, 6)
    assert (case.case_id, life.case_id) == ("0", "1")
    assert life.verdict.term == "XT"
    acquitted = {**CASE, "charge": "不违规", "prison_time": 0}
    assert not read_cases(write(tmp_path / "d.json", [acquitted]))[0].verdict.is_guilty


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"fact": ""}, "fact"), ({"fact": 3}, "fact"), ({"relevant_articles": [264]}, "relevant_articles"),
        ({"charge": None}, "charge"), ({"prison_time": "很久"}, "prison_time"), ({"prison_time": None}, "prison_time"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_row(change: Any, field: str, tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    lines = [json.dumps(CASE), json.dumps({**CASE, **change})]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InvalidRequestError, match=rf"cases\.jsonl:2: {field}"):
        read_cases(path)


@pytest.mark.parametrize("missing", list(CASE))
def test_a_missing_field_is_named(missing: str, tmp_path: Path) -> None:
    row = {key: value for key, value in CASE.items() if key != missing}
    with pytest.raises(InvalidRequestError, match=missing):
        read_cases(write(tmp_path / "c.json", [row]))


def test_both_shapes_of_statutes(tmp_path: Path) -> None:
    as_dict = read_articles(write(tmp_path / "a.json", {"264-0-0": "盗窃", "287.1-0": "网络"}))
    as_list = read_articles(
        write(tmp_path / "b.json", [{"id": "264.0-0", "content": "盗窃"}, {"id": "287-1-0", "content": "网络"}])
    )  # fmt: skip
    assert as_dict == as_list
    assert as_dict.text("264") == "盗窃"
    assert as_dict.text("287-1") == "网络"
    assert as_dict.text("999") is None
    assert canonical_id("总则") == "总则"


@pytest.mark.parametrize("content", [3, ["264"], {"264": 3}, [{"content": "x"}]])
def test_other_shapes_are_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="expected"):
        read_articles(write(tmp_path / "a.json", content))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_cases(tmp_path / "none.json")
    with pytest.raises(NotFoundError, match=r"original\.json"):
        find_folders(tmp_path)


def test_labels_are_those_of_lawshift() -> None:
    assert len(LABELS) == 31
    assert sorted(set(LABELS.values())) == ["NV", "NX", "TD", "TU", "V", "XT"]
    shared = Path(__file__).parents[4] / "shared" / "data" / "lawshift" / "label.json"
    if not shared.is_file():
        pytest.skip("the real label table is not beside this checkout")
    table = json.loads(shared.read_text(encoding="utf-8"))
    assert {row["name"]: row["label"] for row in table} == LABELS


def test_a_folder_of_another_name_needs_a_label(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    with pytest.raises(InvalidRequestError, match=r"label\.json"):
        label_of(folder)
    write(tmp_path / "label.json", [{"name": "mine", "label": "TU"}])
    assert label_of(folder) == "TU"
    write(tmp_path / "label.json", [{"name": "mine", "label": "UP"}])
    with pytest.raises(InvalidRequestError, match="label"):
        label_of(folder)


def test_generated_cases_have_the_layout_and_every_label(tmp_path: Path) -> None:
    write_generated(tmp_path, num_train=30, num_test=5, num_held_out=5, seed=1)
    folders = [read_folder(path) for path in find_folders(tmp_path)]
    assert {folder.label for folder in folders} == set(LABELS.values())
    train = {case.fact for case in read_cases(tmp_path / "training_set.json")}
    for folder in folders:
        assert len(folder.cases["original"]) == len(folder.cases["poisoned"]) == 5
        assert not train & {case.fact for case in folder.cases["original"]}
        for case in folder.cases["original"]:
            laws = [
                folder.articles[split].text(case.relevant_articles[0])
                for split in ("original", "poisoned")
            ]
            assert laws[0] != laws[1]
            assert None not in laws
    again = tmp_path / "again"
    write_generated(again, num_train=30, num_test=5, num_held_out=5, seed=1)
    name = next(iter(CHANGES))
    assert (again / name / "original.json").read_text() == (
        tmp_path / name / "original.json"
    ).read_text()


def test_the_data_set_asks_and_grades(tmp_path: Path) -> None:
    write(tmp_path / "cases.json", [CASE])
    write(tmp_path / "articles_cases.json", {"264-0-0": "盗窃的，处三年以下。"})
    data = get_dataset("lawshift", data_path=tmp_path / "cases.json", split="poisoned")
    question, prompt, truth = data.get_example_question(0)
    assert prompt == ""
    assert CASE["fact"] in question
    assert "【264-0-0】盗窃的" in question
    assert NEW_LAW in question
    assert truth == "盗窃罪 | 6"
    assert data.evaluate_answer("盗窃罪 | 半年", truth)["is_correct"]
    assert data.evaluate_answer("胡言乱语", truth)["strategy"] == "no_answer"
    assert data[0]["charge"] == "盗窃"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"264": "偷", "264-0-0": "盗"}', "264-0-0"),
        ('[{"id": "264", "content": "偷"}, {"id": "264.0-0", "content": "盗"}]', "264.0-0"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_statutes_that_contradict_themselves_or_cannot_be_read(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "articles.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidRequestError, match="articles") as refused:
        read_articles(path)
    assert said in refused.value.message


def test_ids_in_full_width_digits_and_given_twice_alike(tmp_path: Path) -> None:
    path = tmp_path / "articles.json"
    path.write_text('{"２６４": "盗", "264-0-0": "盗"}', encoding="utf-8")
    assert read_articles(path).text("264") == read_articles(path).text("２６４-０-０") == "盗"


@pytest.mark.parametrize("charge", ["罪", "、", "无罪", "不构成犯罪", ["不违规", "盗窃"]])
def test_a_charge_that_names_none_is_refused(charge: Any, tmp_path: Path) -> None:
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([CASE | {"charge": charge}], ensure_ascii=False), encoding="utf-8")
    with pytest.raises(InvalidRequestError, match=r"cases\.json:1: charge") as refused:
        read_cases(path)
    assert refused.value.field == "charge"
