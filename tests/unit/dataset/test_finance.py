"""Finance questions: their types by rules, foreign layouts, the pipeline's own files, DianJin-R1-Data."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

from eztinker.dataset import finance_sources, modelscope
from eztinker.dataset.finance import (
    DistilledRow,
    RawRow,
    as_jsonl,
    normalised_question,
    read_records,
)
from eztinker.dataset.finance_sources import find_dianjin, read_questions
from eztinker.dataset.finance_types import question_type
from eztinker.errors import InvalidRequestError, NotFoundError

LABELLED = [
    ("financial_calculation", "某公司2023年营收1000万元，同比增长25%，请计算2022年营收。", "800"),
    ("financial_calculation", "设备原值100万元，残值10万元，折旧5年，年折旧额为（）万元。\nA. 18\nB. 20", "18"),
    ("financial_calculation", "What was the average dividend yield from 2017 to 2019?", "1.57"),
    ("financial_calculation", "How many segments are there in 2018 and 2019?", "2"),
    ("concept_qa", "什么是风险分散\nA. 集中风险\nB. 疏散同一性质的风险单位", "疏散同一性质的风险单位"),
    ("concept_qa", "下列符合动产的定义的是？\nA. 房屋\nB. 船舶", "船舶"),
    ("concept_qa", "积累公式法又称为（）。\nA. 资产份额定价法\nB. 支出份额定价法", "资产份额定价法"),
    ("concept_qa", "What is a yield curve?", "A plot of yields against maturities"),
    ("risk_analysis", "投资者持有股票，以下哪种策略可以对冲下跌的风险？\nA. 卖出认沽\nB. 买入认沽", "买入认沽"),
    ("risk_analysis", "利率敏感性缺口管理是利率风险管理的工具，它属于（）。\nA. 缺口管理\nB. 资本管理", "缺口管理"),
    ("risk_analysis", "Which position hedges the exposure to a falling euro?", "A short euro forward"),
    ("business_reasoning", "根据《银行业监督管理法》，处置方式不包括（）。\nA. 接管\nB. 转售", "转售"),
    ("business_reasoning", "调整企业资金结构不能做到____。\nA. 降低财务成本\nB. 增强弹性", "增强弹性"),
    ("business_reasoning", "Why did gross margin fall although sales grew?", "Input costs rose faster"),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "question", "gold"), LABELLED)
def test_types_by_rules(expected: str, question: str, gold: str) -> None:
    assert question_type(question, gold) == expected


def test_a_number_in_the_question_does_not_make_a_statement_a_calculation() -> None:
    assert question_type("2023年第1季度后，公司应如何处理？", "应当重述") == "business_reasoning"


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


def test_layouts(tmp_path: Path) -> None:
    file = write(
        tmp_path / "q.jsonl",
        {"id": "a", "question": "利润是多少？收入5，成本3", "gold_answer": 2, "source": "own"},
        {"question": "选哪个？", "choices": '{"A": "甲", "B": "乙"}', "answer": "B"},
        {"question": "哪个大？", "options": ["丙", "丁"], "answer": "丙", "type": "risk_analysis"},
        {"instruction": "求值", "input": "1+1", "output": "<think>x</think><answer>2</answer>"},
        {"instruction": "选", "output": "<think>x</think><answer>\\boxed{D}。理由</answer>"},
        {"id": "a", "question": "另一个问题", "answer": "x"},
    )
    rows = read_questions([file], "custom").rows
    assert rows[0] == RawRow("a", "利润是多少？收入5，成本3", "2", "financial_calculation", "own")
    assert rows[1].question == "选哪个？\nA. 甲\nB. 乙"
    assert rows[1].gold_answer == "乙"
    assert (rows[2].gold_answer, rows[2].type) == ("丙", "risk_analysis")
    assert (rows[3].question, rows[3].gold_answer) == ("求值\n1+1", "2")
    assert rows[4].gold_answer == "D"
    assert len({row.id for row in rows}) == len(rows) == 6


def test_rows_that_cannot_be_used_are_counted_with_their_place(tmp_path: Path) -> None:
    file = write(
        tmp_path / "q.jsonl",
        {"question": "利润？", "answer": "2"},
        {"question": "利润 ？", "answer": "3"},
        {"question": "", "answer": "3"},
        {"question": "成本？"},
        {"instruction": "x", "output": "<think>still"},
        {"question": "税率？", "answer": float("nan")},
        {"question": "费用？", "answer": float("inf")},
        {"question": float("nan"), "answer": "1"},
    )
    found = read_questions([file], "custom")
    assert len(found.rows) == 1
    assert dict(found.left_out) == {
        "question given before": 1,
        "no question": 2,
        "no readable answer": 4,
    }
    assert found.first_left_out["no readable answer"] == f"{file}:4"


def test_nothing_usable_names_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="gold_answer") as caught:
        read_questions([write(tmp_path / "q.jsonl", {"title": "x"})], "custom")
    assert caught.value.code == "empty_dataset"
    with pytest.raises(NotFoundError, match="No questions at"):
        read_questions([tmp_path / "absent.jsonl"], "custom")


def test_questions_are_the_same_when_only_writing_differs() -> None:
    assert normalised_question("利润 是多少？") == normalised_question("利润是多少?")
    assert normalised_question("Ｐ/Ｅ ratio") == normalised_question("p/e Ratio")
    assert normalised_question("利率5%") != normalised_question("利率5")
    assert normalised_question("净利1.5") != normalised_question("净利15")
    assert normalised_question("为-5") != normalised_question("为5")
    assert (
        len(set(map(normalised_question, ("求6*3", "求6/3", "求6×3", "求63", "求6<3", "求6>3"))))
        == 6
    )


def test_the_pipelines_own_files_are_checked(tmp_path: Path) -> None:
    row = DistilledRow("a", "q", "1", "concept_qa", "<think>x</think><answer>1</answer>")
    path = tmp_path / "distilled.jsonl"
    path.write_text(as_jsonl([row]), "utf-8")
    assert read_records(path, DistilledRow, made_by="stage 2") == [row]
    with pytest.raises(NotFoundError, match="Run stage 2 first"):
        read_records(tmp_path / "none.jsonl", DistilledRow, made_by="stage 2")
    for bad, said in (
        ({"id": "a"}, "expected 'question'"),
        (
            {"id": "a", "question": "q", "gold_answer": "1", "type": "poem", "source": "s"},
            "a type of",
        ),
        (
            {
                "id": "a",
                "question": "q",
                "gold_answer": float("nan"),
                "type": "concept_qa",
                "source": "s",
            },
            "got nan",
        ),
    ):
        with pytest.raises(InvalidRequestError, match=said):
            read_records(write(path, bad), RawRow, made_by="stage 1")
    whole = {"id": "a", "question": "q", "gold_answer": "1", "type": "concept_qa", "source": "s"}
    with pytest.raises(InvalidRequestError, match="given twice"):
        read_records(write(path, whole, whole), RawRow, made_by="stage 1")
    with pytest.raises(InvalidRequestError, match="holds no row"):
        read_records(write(path), RawRow, made_by="stage 1")


# DianJin-R1-Data ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("EZTINKER_DATA_DIR", raising=False)


ROW = {"instruction": "求2022年营收。", "output": "<think>x</think><answer>800</answer>"}


def test_dianjin_from_a_folder_and_from_the_hub_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "hub/datasets--DianJin--DianJin-R1-Data"
    write(repo / "refs/main").write_text("abc")
    cached = [
        write(repo / "snapshots/abc/train" / f"{name}.json", ROW)
        for name in finance_sources.DIANJIN_FILES
    ]
    assert find_dianjin() == cached
    monkeypatch.setenv("EZTINKER_DATA_DIR", str(tmp_path / "data"))
    local = [
        write(tmp_path / "data/dianjin-r1-data" / f"{name}.json", ROW)
        for name in finance_sources.DIANJIN_FILES
    ]
    assert find_dianjin() == local
    (row,) = read_questions(local, finance_sources.DIANJIN).rows
    assert (row.id, row.gold_answer, row.source) == ("dianjin_0", "800", "dianjin-r1-data")


def test_dianjin_nowhere_names_every_place_and_the_way_out() -> None:
    with pytest.raises(NotFoundError, match="--local_data") as caught:
        find_dianjin()
    for place in ("EZTINKER_DATA_DIR", "hub cache", "ModelScope", "DianJin/DianJin-R1-Data"):
        assert place in caught.value.message


@pytest.fixture
def modelscope_server() -> Iterator[tuple[str, list[str], set[str]]]:
    """A server that has the files of the data set, but for those that are missing; what it was asked."""
    asked: list[str] = []
    missing: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            url = urlparse(self.path)
            (file,) = parse_qs(url.query).get("FilePath", [""])
            asked.append(f"{url.path} {file}")
            is_there = file not in missing
            body = json.dumps([ROW]).encode() if is_there else b"no such file"
            self.send_response(200 if is_there else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked, missing
    server.shutdown()
    server.server_close()
    thread.join()


def test_dianjin_from_modelscope_is_fetched_once_and_whole(
    modelscope_server: tuple[str, list[str], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked, missing = modelscope_server
    monkeypatch.setenv("MODELSCOPE_DOMAIN", address)
    assert modelscope.fetch_file(finance_sources.DIANJIN_MODELSCOPE, "x.json", []) is None
    assert asked == []  # HF_HUB_OFFLINE forbids it
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
    missing.add("train/cflue_oe.json")
    tried: list[str] = []
    assert finance_sources._from_modelscope(tried) == []
    assert "404" in tried[0]
    missing.clear()
    files = find_dianjin()
    assert [path.name for path in files] == [
        f"{name}.json" for name in finance_sources.DIANJIN_FILES
    ]
    assert asked[0] == ("/api/v1/datasets/tongyi_dianjin/DianJin-R1-Data/repo train/cflue_mcq.json")
    asked.clear()
    assert find_dianjin() == files
    assert asked == []


@pytest.mark.shared
def test_the_real_questions_are_read_and_graded_by_their_own_answers() -> None:
    from eztinker.grading.finance import grade_finance, read_options

    path = Path(__file__).parents[4] / "shared" / "data" / "finance_raw" / "raw.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}")
    found = read_questions([path], "real")
    assert len(found.rows) > 2000
    for row in found.rows[::7]:
        assert grade_finance(
            f"<answer>{row.gold_answer}</answer>", row.gold_answer, row.question
        ).is_correct
        options = read_options(row.question)
        if len(set(options.values())) == len(options):
            right = [
                letter
                for letter in options
                if grade_finance(
                    f"<answer>{letter}</answer>", row.gold_answer, row.question
                ).is_correct
            ]
            assert len(right) == (1 if options else 0)
