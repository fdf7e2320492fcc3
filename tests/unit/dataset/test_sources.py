"""Where data are looked for, in which order, and what is said when there are none."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import pytest

from eztinker.dataset import source
from eztinker.dataset.base import Dataset, get_dataset, list_datasets, register_dataset
from eztinker.dataset.rows import read_rows
from eztinker.dataset.source import HubDataset, files_of_split, find_source, hub_answers
from eztinker.errors import AlreadyExistsError, InvalidRequestError, NotFoundError, UnsupportedError

HUB = HubDataset("openai/gsm8k", "main")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("EZTINKER_DATA_DIR", raising=False)


def write(path: Path, text: str = '{"question": "q", "answer": "#### 1"}\n') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def cache_file(tmp_path: Path, name: str, commit: str = "abc") -> Path:
    repo = tmp_path / "hub/datasets--openai--gsm8k"
    write(repo / "refs/main", "abc")
    return write(repo / "snapshots" / commit / name)


def test_places_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = cache_file(tmp_path, "main/train.jsonl")
    cache_file(tmp_path, "main/train.jsonl", commit="older")
    cache_file(tmp_path, "socratic/train.jsonl")
    found = find_source("gsm8k", "train", hub=HUB)
    assert (found.paths, found.origin) == ([cached], "hub_cache")

    in_dir = write(tmp_path / "data/gsm8k/train.jsonl")
    monkeypatch.setenv("EZTINKER_DATA_DIR", str(tmp_path / "data"))
    found = find_source("gsm8k", "train", hub=HUB)
    assert (found.paths, found.origin) == ([in_dir], "data_dir")

    given = write(tmp_path / "mine/train.jsonl")
    for data_path in (given, given.parent, str(given)):
        found = find_source("gsm8k", "train", data_path=data_path, hub=HUB)
        assert (found.paths, found.origin) == ([given], "data_path")


def test_one_error_names_all_that_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EZTINKER_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(NotFoundError) as caught:
        find_source("gsm8k", "train", hub=HUB)
    error = caught.value
    assert error.code == "dataset_not_found"
    assert len(error.details["tried"]) == 4
    for part in ("data_path: not given", str(tmp_path / "data/gsm8k"), str(tmp_path / "hub"), "HF_HUB_OFFLINE", "train.jsonl"):  # fmt: skip
        assert part in error.message


def test_a_given_path_has_no_substitute(tmp_path: Path) -> None:
    cache_file(tmp_path, "main/train.jsonl")
    with pytest.raises(NotFoundError, match="does not exist"):
        find_source("gsm8k", "train", data_path=tmp_path / "absent", hub=HUB)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match=r"no train\.jsonl"):
        find_source("gsm8k", "train", data_path=tmp_path / "empty", hub=HUB)


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_file(tmp_path, "main/train-00000-of-00001.parquet")
    monkeypatch.setattr("eztinker.dataset.rows.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"eztinker\[data\]") as caught:
        find_source("gsm8k", "train", hub=HUB)
    assert caught.value.code == "missing_extra"


def test_parquet_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is an extra")
    import pyarrow
    import pyarrow.parquet

    rows = [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(3)]
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert [(row.data, row.line) for row in read_rows(path)] == [
        (r, i + 1) for i, r in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["main/train.jsonl", "main/train-00000-of-00001.parquet"], ["main/train.jsonl"]),
        (
            ["main/train-00001-of-00002.parquet", "main/train-00000-of-00002.parquet"],
            ["main/train-00000-of-00002.parquet", "main/train-00001-of-00002.parquet"],
        ),
        (["main/train-00000-of-00002.parquet"], []),  # a part is missing
        (["socratic/train.jsonl", "main/test.jsonl", "README.md"], []),
        (["train.jsonl"], ["train.jsonl"]),
        (["data/train-00000-of-00001.parquet"], ["data/train-00000-of-00001.parquet"]),
    ],
)
def test_files_of_one_split(names: list[str], wanted: list[str]) -> None:
    assert files_of_split(names, "main", "train") == wanted


def test_the_hub_is_asked_last_and_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import huggingface_hub

    asked = []

    def list_files(self: object, repo_id: str, *, repo_type: str) -> list[str]:
        return ["main/train.jsonl", "main/test.jsonl"]

    def download(repo_id: str, name: str, *, repo_type: str, cache_dir: Path) -> str:
        asked.append((repo_id, name, repo_type))
        return str(cache_file(tmp_path, name))

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(source, "hub_answers", lambda endpoint: True)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", list_files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with caplog.at_level(logging.INFO):
        assert find_source("gsm8k", "train", hub=HUB).origin == "hub"
    assert "openai/gsm8k" in caplog.text
    assert find_source("gsm8k", "train", hub=HUB).origin == "hub_cache"
    assert asked == [("openai/gsm8k", "main/train.jsonl", "dataset")]


def test_a_hub_that_fails_is_one_of_the_places_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(self: object, repo_id: str, *, repo_type: str) -> list[str]:
        raise OSError("503 from the hub\nlong text")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(source, "hub_answers", lambda endpoint: True)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    with pytest.raises(NotFoundError) as caught:
        find_source("gsm8k", "train", hub=HUB)
    assert caught.value.details["tried"][-1] == "hub openai/gsm8k: OSError: 503 from the hub"


def test_offline_is_known_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    def hang(*_: object, **__: object) -> None:  # as name resolution may
        time.sleep(0.6)
        raise httpx.ConnectTimeout("too late")

    monkeypatch.setattr(httpx, "head", hang)
    started = time.monotonic()
    assert not hub_answers("https://hub.invalid", timeout_s=0.2)
    assert time.monotonic() - started < 0.5
    assert not hub_answers("not an address", timeout_s=0.2)


def test_nothing_heavy_is_imported_for_local_data(tmp_path: Path) -> None:
    import subprocess

    path = write(tmp_path / "train.jsonl")
    code = (
        f"from eztinker.dataset.gsm8k import GSM8KDataset; GSM8KDataset(data_path={str(path)!r}); "
        "import sys; heavy = ('torch', 'transformers', 'huggingface_hub', 'sympy', 'httpx'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rows_know_their_line_in_both_forms(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"b": "x\u2028y"}, {"c": [1, 2]}]
    lines = write(
        tmp_path / "a.jsonl",
        "\ufeff\n" + "\r\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows),
    )
    assert [(row.data, row.line) for row in read_rows(lines)] == list(
        zip(rows, (2, 4, 6), strict=True)
    )
    array = write(tmp_path / "a.json", json.dumps(rows, indent=1))
    assert [(row.data, row.line) for row in read_rows(array)] == list(
        zip(rows, (2, 5, 8), strict=True)
    )
    assert next(iter(read_rows(array))).where == f"{array}:2"
    assert list(read_rows(write(tmp_path / "b.json", " [ ] "))) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a": 1}\n{"a": \n', 2),
        ('{"a": 1}\n[1]\n', 2),
        ('[\n{"a": 1},\n{"a" 1}\n]', 3),
        ('[\n{"a": 1}\n{"a": 1}\n]', 3),
        ('[\n{"a": 1},\n3\n]', 3),
        ('[\n{"a": 1},\n', 3),
        ('"text"', 1),
        ('[\n{"a": 1}\n]\n[\n{"a": 2}\n]', 4),
        ('[{"a": 1}] and more', 1),
        ('[{"a": 1},\n' + "[" * 100_000, 2),
        ('{"a": 1}\n{"a": ' + "9" * 5_000 + "}", 2),
        ('[{"a": 1},\n{"a": ' + "9" * 5_000 + "}]", 2),
        ('{"a": 1}\n{"a": "cut \\ud83d"}', 2),
        ('[{"a": 1},\n{"a": ["\\udc00"]}]', 2),
    ],
)
def test_broken_rows_are_told_with_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    path = write(tmp_path / "broken.json", text)
    with pytest.raises(InvalidRequestError) as caught:
        list(read_rows(path))
    assert f"{path}:{line}: " in caught.value.message


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(InvalidRequestError, match="UTF-8"):
        list(read_rows(path))


class _Tiny:
    """Not a subclass of anything: the interface is enough."""

    def __init__(self, size: int = 2) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        return {"question": str(index)}

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        return str(index), f"{index}?", str(index)

    def evaluate_answer(self, generated_text: str, ground_truth: str, question: str = "") -> dict:
        return {"score": float(generated_text == ground_truth)}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    from eztinker.dataset import base

    list_datasets()  # what is imported later would register in the copy
    monkeypatch.setattr(base, "_registry", dict(base._registry))


@pytest.mark.usefixtures("registry")
def test_a_user_adds_a_set_in_one_file() -> None:
    register_dataset("tiny")(_Tiny)
    register_dataset("tiny")(_Tiny)  # a notebook cell run twice
    dataset = get_dataset("tiny", size=3)
    assert isinstance(dataset, Dataset)
    assert len(dataset) == 3
    assert {"gsm8k", "sharegpt", "tiny"} <= set(list_datasets())
    with pytest.raises(AlreadyExistsError, match="gsm8k"):
        register_dataset("gsm8k")(_Tiny)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'gsm8k'") as caught:
        get_dataset("gsm8")
    assert caught.value.code == "dataset_unknown"
