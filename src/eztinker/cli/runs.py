"""``create``, ``list-runs``, ``delete``: training runs."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from eztinker.cli.options import ApiKey, AsJson, BaseUrl, Seed, connect
from eztinker.cli.output import note, print_json, print_table, print_text
from eztinker.cli.texts import say

DEFAULT_MODEL = "Qwen/Qwen2-0.5B-Instruct"


def create(
    model: Annotated[str, typer.Option("--model", help=say("option model"))] = DEFAULT_MODEL,
    run_id: Annotated[str | None, typer.Option("--run-id", help=say("create run-id"))] = None,
    lora_rank: Annotated[int, typer.Option("--lora-rank", min=1, help=say("create rank"))] = 8,
    lora_alpha: Annotated[float, typer.Option("--lora-alpha", help=say("create alpha"))] = 16.0,
    quantization: Annotated[
        Literal["none", "nf4", "int8"],
        typer.Option("--quantization", help=say("create quantization")),
    ] = "none",
    seed: Seed = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print the new run's id on stdout, so that ``RUN=$(eztinker create)`` works."""
    with connect(base_url, api_key) as client:
        created = client.create_run(
            model, lora_rank, lora_alpha, run_id, quantization=quantization, seed=seed
        )
    note(say("created", model=model))
    if as_json:
        print_json({"run_id": created, "base_model": model})
    else:
        print_text(created)


def list_runs(base_url: BaseUrl = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Print a table of all runs, newest first."""
    with connect(base_url, api_key) as client:
        runs = client.get_runs()
    if as_json:
        print_json({"runs": runs})
    elif runs:
        print_table(("Run ID", "Base Model"), [(run["run_id"], run["base_model"]) for run in runs])
    else:
        note(say("no runs"))


def delete(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", show_default=False)],
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Delete a run."""
    with connect(base_url, api_key) as client:
        client.delete_run(run_id)
    note(say("deleted", run_id=run_id))
