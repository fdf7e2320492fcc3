"""``save``, ``checkpoints``, ``pin``, ``prune``: a run's named, durable states."""

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


def pin(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    off: Annotated[bool, typer.Option("--off", help=say("pin off"))] = False,
    score: Annotated[float | None, typer.Option("--score", help=say("pin score"))] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Pin or unpin a checkpoint; with ``--score`` alone, only say how good it is."""
    pinned = None if score is not None and not off else not off
    with connect(base_url, api_key) as client:
        kept = client.keep_checkpoint(run_id, name, pinned=pinned, score=score)
    if as_json:
        print_json(kept)
    else:
        note(say("pinned" if kept["pinned"] else "not pinned", run_id=run_id, name=name))


def prune(
    run_id: Annotated[str | None, typer.Option("--run-id", help=say("checkpoints run-id"))] = None,
    keep_last: Annotated[int | None, typer.Option(min=0, help=say("prune keep-last"))] = None,
    keep_best: Annotated[int | None, typer.Option(min=0, help=say("prune keep-best"))] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=say("prune dry-run"))] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print a table of the checkpoints that were deleted, or would be."""
    with connect(base_url, api_key) as client:
        done = client.prune_checkpoints(
            run_id, keep_last=keep_last, keep_best=keep_best, dry_run=dry_run
        )
    if as_json:
        print_json(done)
        return
    rows = [
        (entry["name"], entry["run_id"], size_text(entry["size_bytes"]), entry["reason"])
        for entry in done["checkpoints"]
    ]
    if rows:
        print_table(("Name", "Run ID", "Size", "Reason"), rows)
    told = "would prune" if dry_run else "pruned"
    note(say(told, count=len(rows), size=size_text(done["freed_bytes"])))


def _row(checkpoint: dict) -> tuple[str, ...]:
    return (
        checkpoint["name"],
        checkpoint["run_id"],
        checkpoint["created_at"],
        size_text(checkpoint["size_bytes"]),
        "no" if checkpoint["is_sampler"] else "yes",
    )
