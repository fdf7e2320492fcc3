"""``eval``: how well a base model, a run or a checkpoint answers the questions of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eztinker.cli.options import ApiKey, AsJson, BaseUrl, Checkpoint, Model, RunId, connect
from eztinker.cli.output import note, print_json, print_table
from eztinker.cli.texts import say
from eztinker.errors import InvalidRequestError

DEFAULT_DATASET = "generated-math"


def evaluate(
    dataset: Annotated[str, typer.Option("--dataset", help=say("eval dataset"))] = DEFAULT_DATASET,
    data_path: Annotated[
        Path | None, typer.Option("--data-path", help=say("demo data-path"))
    ] = None,
    split: Annotated[str, typer.Option("--split", help=say("eval split"))] = "test",
    model: Model = None,
    run_id: RunId = None,
    checkpoint: Checkpoint = None,
    max_samples: Annotated[
        int, typer.Option("--max-samples", min=1, help=say("eval max-samples"))
    ] = 100,
    num_samples: Annotated[
        int, typer.Option("--num-samples", min=1, help=say("eval num-samples"))
    ] = 1,
    pass_at: Annotated[
        list[int] | None, typer.Option("--pass-at", help=say("eval pass-at"))
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help=say("option temperature"))
    ] = 0.0,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help=say("option max-tokens"))
    ] = 256,
    seed: Annotated[int, typer.Option("--seed", min=0, help=say("option seed"))] = 0,
    answers: Annotated[Path | None, typer.Option("--answers", help=say("eval answers"))] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print a table: all questions, then every type of them."""
    from eztinker.recipes.evaluate import EvaluationOptions, run_evaluation
    from eztinker.recipes.terminal import TerminalProgress
    from eztinker.rl.candidates import Policy

    _check_policy(model, run_id, checkpoint)
    ks = tuple(sorted({1, *(pass_at or ())}))
    with connect(base_url, api_key) as client:
        options = EvaluationOptions(
            policy=Policy(run_id, checkpoint, model),
            dataset=dataset,
            data_path=data_path,
            split=split,
            max_samples=max_samples,
            num_samples=num_samples,
            temperature=temperature,
            max_new_tokens=max_tokens,
            ks=ks,
            seed=seed,
            answers=answers,
        )
        card = run_evaluation(options, client, TerminalProgress())
    if as_json:
        print_json(card.figures())
        return
    columns = ("", say("eval questions"), say("eval accuracy"), "95 %")
    print_table((*columns, *(f"pass@{k}" for k in ks if k > 1)), card.table())
    if answers is not None:
        note(say("eval written", path=answers))


def _check_policy(model: str | None, run_id: str | None, checkpoint: str | None) -> None:
    """One and only one of base model and run; a checkpoint belongs to a run."""
    if (model is None) == (run_id is None):
        raise InvalidRequestError(
            "Name what to evaluate: --model NAME, or --run-id ID (with --checkpoint NAME for one of its "
            "checkpoints), and not both.",
            field="run_id" if run_id is None else "model",
        )
    if checkpoint is not None and run_id is None:
        raise InvalidRequestError("--checkpoint needs --run-id.", field="checkpoint")
