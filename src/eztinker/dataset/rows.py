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


_UNREADABLE = (json.JSONDecodeError, RecursionError, ValueError)
"""What ``json`` raises; a plain ``ValueError`` is about an integer of more digits than Python reads."""

OnBad = Callable[[int, str], None]


def read_rows(path: Path, on_bad: OnBad | None = None) -> Iterator[Row]:
    """Rows of a file, one after another; JSON array or JSON lines is seen from the content.

    Args:
        path: the file.
        on_bad: called with line and reason of a JSON line, or an array's element, that is no object or no Unicode
            text, which is then left out; None makes it an error. What breaks a whole file (the JSON of an array, bytes
            that are no UTF-8) is an error in any case.

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
    made = _array_rows if text.lstrip()[:1] == "[" else _line_rows
    return made(path, text, on_bad)


def _line_rows(path: Path, text: str, on_bad: OnBad | None) -> Iterator[Row]:
    # split("\n"), not splitlines(): U+2028 and form feeds may stand inside JSON strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield from _row_or_bad(lambda: _line_row(line, path, number), path, number, on_bad)  # noqa: B023  called at once


def _row_or_bad(
    make: Callable[[], Row], path: Path, line: int, on_bad: OnBad | None
) -> Iterator[Row]:
    """One row, or none and a word to ``on_bad``."""
    try:
        row = make()
    except InvalidRequestError as error:
        if on_bad is None:
            raise
        on_bad(line, error.message.removeprefix(f"{path}:{line}: "))
    else:
        yield row


def _line_row(line: str, path: Path, number: int) -> Row:
    try:
        return _row(json.loads(line), path, number)
    except _UNREADABLE as error:
        raise InvalidRequestError(
            f"{path}:{number}: broken JSON ({_told(error)}). Expected one JSON object per line, or one array of objects.",
            field="data_path",
        ) from error


def _told(error: Exception) -> str:
    """What the parser found: its own words, with the column where it knows one."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return (
        "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
    )


def _array_rows(path: Path, text: str, on_bad: OnBad | None) -> Iterator[Row]:
    decoder = json.JSONDecoder()
    at, counted, line = text.index("[") + 1, 0, 1
    while True:
        at = _skip_blanks(text, at)
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]":
            _refuse_more(path, text, at + 1)
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except _UNREADABLE as error:
            place = error.lineno if isinstance(error, json.JSONDecodeError) else line
            raise InvalidRequestError(
                f"{path}:{place}: broken JSON ({_told(error)}).", field="data_path"
            ) from error
        yield from _row_or_bad(lambda: _row(value, path, line), path, line, on_bad)  # noqa: B023  called at once
        at = _skip_blanks(text, at)
        if text[at : at + 1] == ",":
            at += 1
        elif text[at : at + 1] != "]":
            place = line + text.count("\n", counted, at)
            raise InvalidRequestError(
                f"{path}:{place}: broken JSON (expected , or ] after an object).", field="data_path"
            )


def _refuse_more(path: Path, text: str, end: int) -> None:
    """Rows behind the array would be lost without a word."""
    if text[end:].strip():
        place = text.count("\n", 0, end + len(text[end:]) - len(text[end:].lstrip())) + 1
        raise InvalidRequestError(
            f"{path}:{place}: something follows the array that ends before it. Expected one array of objects, or one "
            "JSON object per line.",
            field="data_path",
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
    if _has_half_a_character(value):
        raise InvalidRequestError(
            f"{path}:{line}: a text holds half a character (a lone surrogate such as \\ud83d), which is no Unicode text. "
            "Write the whole character or take it out.",
            field="data_path",
        )
    return Row(value, path, line)


def _has_half_a_character(value: dict[str, Any]) -> bool:
    """Whether any text of a row cannot be written down again; a cut emoji in JSON's escapes is the usual one."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return True
    return False
