"""``import``: an adapter's folder on this machine becomes a run on the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eztinker.cli.options import DEFAULT_TIMEOUT_S, ApiKey, AsJson, BaseUrl, Timeout, connect
from eztinker.cli.output import note, print_json, print_text
from eztinker.cli.texts import say


def import_adapter(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help=say("merge adapter"), show_default=False)
    ],
    base_model: Annotated[
        str | None, typer.Option("--base-model", help=say("import base-model"))
    ] = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help=say("create run-id"))] = None,
    quantization: Annotated[
        str | None, typer.Option("--quantization", help=say("create quantization"))
    ] = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print the run's id on stdout."""
    with connect(base_url, api_key, timeout) as client:
        made = client.import_adapter(
            folder,
            base_model,
            run_id=run_id,
            quantization=quantization,  # type: ignore[arg-type]
        )
    note(say("imported", run_id=made))
    if as_json:
        print_json({"run_id": made})
    else:
        print_text(made)
