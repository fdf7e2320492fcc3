"""``demo``: rejection sampling from start to finish, on this machine alone if need be."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from eztinker.cli.options import ApiKey, AsJson, BaseUrl, Model, Seed
from eztinker.cli.output import print_json, print_text
from eztinker.cli.texts import say

API_KEY_VARIABLE = "EZTINKER_API_KEY"


def demo(
    model: Model = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help=say("demo dataset"))] = None,
    data_path: Annotated[
        Path | None, typer.Option("--data-path", help=say("demo data-path"))
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option("--max-samples", min=1, help=say("demo max-samples"))
    ] = None,
    num_candidates: Annotated[
        int | None, typer.Option("--num-candidates", min=1, help=say("demo num-candidates"))
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help=say("demo epochs"))] = None,
    eval_size: Annotated[
        int | None, typer.Option("--eval-size", min=1, help=say("demo eval-size"))
    ] = None,
    seed: Seed = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", help=say("demo output-dir"))
    ] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Run the demo; what is not given takes the recipe's default."""
    from eztinker.recipes.demo import DemoOptions, run_demo

    if api_key is not None:
        os.environ[API_KEY_VARIABLE] = api_key  # recipes make clients of their own
    given = {
        "model": model,
        "dataset": dataset,
        "data_path": data_path,
        "max_samples": max_samples,
        "num_candidates": num_candidates,
        "epochs": epochs,
        "eval_size": eval_size,
        "seed": seed,
        "output_dir": output_dir,
        "base_url": base_url,
    }
    report = run_demo(
        DemoOptions(**{key: value for key, value in given.items() if value is not None})
    )
    if as_json:
        print_json(asdict(report))
    else:
        print_text(report.summary())
