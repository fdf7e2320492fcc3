"""``save``, ``checkpoints``: a run's named, durable states."""

from __future__ import annotations

from typing import Annotated

import typer

from eztinker.cli.options import ApiKey, AsJson, BaseUrl, connect
from eztinker.cli.output import note, print_json, print_table, print_text, size_text
from eztinker.cli.texts import say


def save(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help=say("save overwrite"))] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print the folder of the checkpoint on stdout."""
    with connect(base_url, api_key) as client:
        saved = client.save_checkpoint(run_id, name, overwrite=overwrite)
    note(say("saved", run_id=run_id, name=name))
    if as_json:
        print_json(saved)
    else:
        print_text(saved["path"])


def list_checkpoints(
    run_id: Annotated[str | None, typer.Option("--run-id", help=say("checkpoints run-id"))] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print a table of the checkpoints of one run or of all."""
    with connect(base_url, api_key) as client:
        found = client.get_checkpoints(run_id)
    if as_json:
        print_json({"checkpoints": found})
    elif found:
        columns = ("Name", "Run ID", "Created", "Size", "Optimizer")
        print_table(columns, [_row(checkpoint) for checkpoint in found])
    else:
        note(say("no checkpoints"))


def _row(checkpoint: dict) -> tuple[str, ...]:
    return (
        checkpoint["name"],
        checkpoint["run_id"],
        checkpoint["created_at"],
        size_text(checkpoint["size_bytes"]),
        "no" if checkpoint["is_sampler"] else "yes",
    )
