"""``logs``: what a run has done, line by line, and what it does next."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eztinker.cli.options import ApiKey, BaseUrl, connect
from eztinker.cli.output import note, print_text
from eztinker.cli.texts import say

if TYPE_CHECKING:
    from eztinker.client.client import EZTinkerClient

PAGE = 1000
FOLLOW_EVERY_S = 1.0
_SHOWN = ("step", "loss", "num_tokens", "grad_norm", "learning_rate", "name", "size_bytes")
"""Numbers of a result, in the order of the line."""


def logs(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", show_default=False)],
    after: Annotated[int, typer.Option("--after", min=-1, help=say("logs after"))] = -1,
    follow: Annotated[bool, typer.Option("--follow", "-f", help=say("logs follow"))] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Annotated[bool, typer.Option("--json", help=say("logs json"))] = False,
) -> None:
    """Print the run's log, oldest first."""
    is_empty = True
    with connect(base_url, api_key) as client:
        for entry in _entries(client, run_id, after, follow=follow):
            is_empty = False
            print_text(json.dumps(entry, ensure_ascii=False) if as_json else line_of(entry))
    if is_empty:
        note(say("no log"))


def _entries(
    client: EZTinkerClient, run_id: str, after: int, *, follow: bool
) -> Iterator[dict[str, Any]]:
    """All entries after one, page by page; with ``follow``, those to come too."""
    while True:
        page = client.get_log(run_id, after, PAGE)
        yield from page
        after = page[-1]["seq"] if page else after
        if len(page) == PAGE:
            continue
        if not follow:
            return
        time.sleep(FOLLOW_EVERY_S)


def line_of(entry: dict[str, Any]) -> str:
    """An entry for people: ``#3 14:05:07 optim_step 0.04 s  step 1  grad_norm 0.8``."""
    finished = datetime.fromisoformat(entry["finished_at"])
    parts = [f"#{entry['seq']}", f"{finished.astimezone():%H:%M:%S}", entry["kind"]]
    if entry["started_at"] is not None:
        seconds = (finished - datetime.fromisoformat(entry["started_at"])).total_seconds()
        parts.append(f"{seconds:.2f} s")
    facts = [
        f"{name} {_number(value)}"
        for name in _SHOWN
        if (value := entry["result"].get(name)) is not None
    ]
    if entry["status"] != "completed":
        reason = f": {entry['error']['message']}" if entry["error"] else ""
        facts.append(f"{entry['status']}{reason}")
    return "  ".join([" ".join(parts), *facts])


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
