"""The buffer file: whole rows survive everything, torn ones vanish."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.rl.buffer import FIELDS, append_rows, load_buffer, save_buffer


def row(i: int, text: str = "x") -> dict:
    return dict.fromkeys(FIELDS, text) | {"example_id": i}


@given(texts=st.lists(st.text(st.characters(exclude_categories=("Cs",))), max_size=4))
def test_any_text_reads_back_as_saved(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("buffer") / "b.jsonl"
    rows = [row(i, text) for i, text in enumerate(texts)]
    save_buffer(rows, path)
    assert load_buffer(path) == rows


def test_every_cut_through_the_last_line_loses_only_that_row(tmp_path: Path):
    path = tmp_path / "b.jsonl"
    rows = [row(0), row(1, "é\u2028 中")]
    save_buffer(rows, path)
    whole = path.read_bytes()
    first_end = whole.index(b"\n") + 1
    for cut in range(first_end, len(whole)):
        path.write_bytes(whole[:cut])
        assert load_buffer(path) == rows[:1]
        append_rows([row(2)], path)
        assert load_buffer(path) == [row(0), row(2)]


def test_rows_are_on_disk_before_the_next_one_is_made(tmp_path: Path):
    path = tmp_path / "new" / "b.jsonl"
    seen = []

    def rows():
        for i in range(3):
            seen.append(len(load_buffer(path)))
            yield row(i)

    append_rows(rows(), path)
    assert seen == [0, 1, 2]


def test_broken_line_and_foreign_rows_are_named_with_their_line(tmp_path: Path):
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps(row(0)) + "\n{broken\n" + json.dumps(row(1)) + "\n")
    with pytest.raises(InvalidRequestError, match=r"b\.jsonl:2"):
        load_buffer(path)
    path.write_text('{"question": "?"}\n')
    with pytest.raises(InvalidRequestError, match="example_id"):
        load_buffer(path)


def test_missing_file_is_not_found(tmp_path: Path):
    with pytest.raises(NotFoundError):
        load_buffer(tmp_path / "none.jsonl")
