"""``data inspect``: what a data file holds, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eztinker.cli.options import AsJson
from eztinker.cli.output import note, print_json, print_table
from eztinker.cli.texts import say
from eztinker.errors import InvalidRequestError

if TYPE_CHECKING:
    from eztinker.dataset.rows import Row

app = typer.Typer(no_args_is_help=True)

MAX_SHOWN_PROBLEMS = 5
_SHAPES = {
    "preference pairs": {"chosen", "rejected"},
    "questions and answers": {"question", "answer"},
    "instructions": {"instruction", "output"},
}
"""Shape -> the fields that make a row one of it."""


@app.callback()
def group() -> None:
    """Holds the commands about data files."""


@app.command(help=say("data inspect"))
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Print rows, fields and shape of a JSON, JSONL or parquet file, and the first problems in it."""
    from eztinker.dataset.rows import read_rows

    if not file.is_file():
        raise InvalidRequestError(f"{file} is not a file.", field="FILE")
    facts = {"file": str(file), **describe(read_rows(file))}
    if as_json:
        print_json(facts)
        return
    problems = facts.pop("problems")
    rows = [(name.replace("_", " "), _cell(value)) for name, value in facts.items()]
    print_table(("", ""), rows)
    for problem in problems:
        note(problem)


def describe(rows: Iterable[Row]) -> dict[str, Any]:
    """Counts over all rows.

    Returns:
        ``num_rows``; ``fields`` and ``shapes``, name -> number of rows; ``num_invalid`` conversations and
        the first ``problems`` among them, each with file and line.
    """
    fields, shapes, problems, num_rows = Counter[str](), Counter[str](), list[str](), 0
    for row in rows:
        num_rows += 1
        fields.update(row.data.keys())
        shape, problem = _look_at(row)
        shapes[shape] += 1
        if problem:
            problems.append(f"{row.where}: {problem}")
    return {
        "num_rows": num_rows,
        "fields": dict(fields),
        "shapes": dict(shapes),
        "num_invalid": len(problems),
        "problems": problems[:MAX_SHOWN_PROBLEMS],
    }


def _look_at(row: Row) -> tuple[str, str]:
    """Shape of a row, and what is wrong with it if it is a conversation and no valid one."""
    from eztinker.dataset.conversation import read_conversation

    if "conversations" in row.data or "messages" in row.data:
        try:
            dialect = read_conversation(row.data, "").dialect
        except InvalidRequestError as error:
            return "invalid conversations", error.message
        return f"conversations ({dialect})", ""
    for shape, needed in _SHAPES.items():
        if needed <= row.data.keys():
            return shape, ""
    return "other", ""


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} ({count})" for name, count in value.items()) or "-"
    return str(value)
