"""Rows of a data file (JSON lines, a JSON array, parquet), each with the place it came from.

It knows no data set: what a row must hold is checked by the sets, which name the place in their errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError, UnsupportedError

SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        data: its fields.
        path: the file.
        line: the line it starts on, from 1; in a parquet file the row number.
    """

    data: dict[str, Any]
    path: Path
    line: int

    @property
    def where(self) -> str:
        """``file:line`` for messages."""
        return f"{self.path}:{self.line}"


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a file, one after another; JSON array or JSON lines is seen from the content.

    Raises:
        InvalidRequestError: broken JSON, a row that is no object, not UTF-8; the message has file and line.
        UnsupportedError: a parquet file where pyarrow is missing (``code="missing_extra"``).
    """
    if path.suffix == ".parquet":
        return _read_parquet(path)
    return _read_json(path)


def check_can_read(path: Path) -> None:
    """Refuse a parquet file where pyarrow is missing."""
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise UnsupportedError(
            f"{path.name} is a parquet file, and reading it needs pyarrow, which is not installed: "
            "pip install 'eztinker[data]'. Or give the data as JSON lines (data_path=FILE.jsonl).",
            code="missing_extra",
        )


def _read_json(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.", field="data_path"
        ) from error
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}.", field="data_path") from error
    return _array_rows(path, text) if text.lstrip()[:1] == "[" else _line_rows(path, text)


def _line_rows(path: Path, text: str) -> Iterator[Row]:
    # split("\n"), not splitlines(): U+2028 and form feeds may stand inside JSON strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise InvalidRequestError(
                    f"{path}:{number}: broken JSON ({error.msg}, column {error.colno}). "
                    "Expected one JSON object per line, or one array of objects.",
                    field="data_path",
                ) from error
            yield _row(value, path, number)


def _array_rows(path: Path, text: str) -> Iterator[Row]:
    decoder = json.JSONDecoder()
    at, counted, line = text.index("[") + 1, 0, 1
    while True:
        at = _skip_blanks(text, at)
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]":
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise InvalidRequestError(
                f"{path}:{error.lineno}: broken JSON ({error.msg}, column {error.colno}).",
                field="data_path",
            ) from error
        yield _row(value, path, line)
        at = _skip_blanks(text, at)
        if text[at : at + 1] == ",":
            at += 1
        elif text[at : at + 1] != "]":
            place = line + text.count("\n", counted, at)
            raise InvalidRequestError(
                f"{path}:{place}: broken JSON (expected , or ] after an object).", field="data_path"
            )


def _skip_blanks(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\r", "\n"):
        at += 1
    return at


def _read_parquet(path: Path) -> Iterator[Row]:
    check_can_read(path)
    import pyarrow.parquet  # pyright: ignore[reportMissingImports]  # an extra

    number = 0
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            for value in batch.to_pylist():
                number += 1
                yield _row(value, path, number)


def _row(value: Any, path: Path, line: int) -> Row:
    if not isinstance(value, dict):
        raise InvalidRequestError(
            f"{path}:{line}: expected a JSON object, got {type(value).__name__}.", field="data_path"
        )
    return Row(value, path, line)
