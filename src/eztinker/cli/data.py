"""``data inspect``: what a data file holds, and how it looks to a model, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eztinker.cli.options import ApiKey, AsJson, BaseUrl, connect
from eztinker.cli.output import note, print_json, print_table, print_text
from eztinker.cli.texts import say

app = typer.Typer(no_args_is_help=True)

_BAR_WIDTH = 40
_SHOWN_BELOW = ("bad", "histogram", "rendered")


@app.callback()
def group() -> None:
    """Holds the commands about data files."""


@app.command(help=say("data inspect"))
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    model: Annotated[str, typer.Option("--model", help=say("data inspect model"))] = "nano",
    rows: Annotated[int, typer.Option("--rows", min=0, help=say("data inspect rows"))] = 2,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=2, help=say("data inspect max-length"))
    ] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print counts, formats, lengths and the first rows rendered; bad rows with file and line on stderr."""
    from eztinker.dataset.inspection import inspect_file
    from eztinker.errors import NotFoundError

    if not file.is_file():
        raise NotFoundError(f"{file} is not a file.", field="FILE", code="dataset_not_found")
    tokenizer = _tokenizer(model, base_url, api_key)
    facts = inspect_file(file, tokenizer, num_rows=rows, max_length=max_length)
    if as_json:
        print_json(facts)
    else:
        _show(facts)
    if not facts["num_records"]:  # a script must not go on with it
        raise typer.Exit(1)


def _tokenizer(model: str, base_url: str | None, api_key: str | None) -> Any:
    """The built-in model's and a folder's tokenizer without a server, any other from the server."""
    import eztinker
    from eztinker.rendering.tokenizer import Tokenizer

    if model == "nano":
        return Tokenizer.from_folder(Path(eztinker.__file__).parent / "assets" / "nano")
    if Path(model).is_dir():
        return Tokenizer.from_folder(model)
    with connect(base_url, api_key) as client:
        return client.get_tokenizer(model)


def _show(facts: dict[str, Any]) -> None:
    shown = {name: value for name, value in facts.items() if name not in _SHOWN_BELOW}
    print_table(("", ""), [(name.replace("_", " "), _cell(value)) for name, value in shown.items()])
    histogram = facts.get("histogram", [])
    most = max((one["count"] for one in histogram), default=1)
    for one in histogram:
        bar = "█" * round(_BAR_WIDTH * one["count"] / most)
        print_text(f"{one['from']:>7} - {one['to']:>7} {one['count']:>7} {bar}")
    for row in facts.get("rendered", []):
        print_text(f"--- {row['where']} ({row['format']}) ---\n{row['text']}")
    for text in facts.get("bad", []):
        note(text)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "-"
    return str(value)
