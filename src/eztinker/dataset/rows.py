"""Rows of a data file (JSON lines, a JSON array, both also gzipped; parquet), each with the place it came from.

It knows no data set: what a row must hold is checked by the sets, which name the place in their errors.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
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


OnBad = Callable[[int, str], None]


def read_rows(path: Path, on_bad: OnBad | None = None) -> Iterator[Row]:
    """Rows of a file, one after another; JSON array or JSON lines is seen from the content.

    Args:
        path: the file.
        on_bad: called with line and reason of a JSON line that is no object, which is then left out; None makes
            it an error. What breaks a whole file (an array, bytes that are no UTF-8) is an error in any case.

    Raises:
        InvalidRequestError: broken JSON, a row that is no object, not UTF-8; the message has file and line.
        UnsupportedError: a parquet file where pyarrow is missing (``code="missing_extra"``).
    """
    if path.suffix == ".parquet":
        return _read_parquet(path)
    return _read_json(path, on_bad)


def check_can_read(path: Path) -> None:
    """Refuse a parquet file where pyarrow is missing."""
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise UnsupportedError(
            f"{path.name} is a parquet file, and reading it needs pyarrow, which is not installed: "
            "pip install 'eztinker[data]'. Or give the data as JSON lines (data_path=FILE.jsonl).",
            code="missing_extra",
        )


def _read_json(path: Path, on_bad: OnBad | None) -> Iterator[Row]:
    try:
        packed = path.read_bytes()
        data = gzip.decompress(packed) if path.suffix == ".gz" else packed
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.", field="data_path"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}.", field="data_path") from error
    return _array_rows(path, text) if text.lstrip()[:1] == "[" else _line_rows(path, text, on_bad)


def _line_rows(path: Path, text: str, on_bad: OnBad | None) -> Iterator[Row]:
    # split("\n"), not splitlines(): U+2028 and form feeds may stand inside JSON strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = _line_row(line, path, number)
            except InvalidRequestError as error:
                if on_bad is None:
                    raise
                on_bad(number, error.message.removeprefix(f"{path}:{number}: "))
                continue
            yield row


def _line_row(line: str, path: Path, number: int) -> Row:
    try:
        return _row(json.loads(line), path, number)
    except (json.JSONDecodeError, RecursionError) as error:
        said = (
            f"{error.msg}, column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else "nested too deeply"
        )
        raise InvalidRequestError(
            f"{path}:{number}: broken JSON ({said}). Expected one JSON object per line, or one array of objects.",
            field="data_path",
        ) from error


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
