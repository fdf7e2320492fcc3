"""``conformance``: whether a server speaks the Tinker protocol, check by check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from eztinker.cli.options import AsJson, Model
from eztinker.cli.output import print_json, print_text
from eztinker.cli.texts import say

if TYPE_CHECKING:
    from eztinker.conformance import Outcome

DEFAULT_KEY = "tml-local"


def conformance(
    url: Annotated[str, typer.Argument(help=say("conformance url"))],
    model: Model = None,
    api_key: Annotated[
        str, typer.Option("--api-key", envvar="TINKER_API_KEY", help=say("conformance api-key"))
    ] = DEFAULT_KEY,
    as_json: AsJson = False,
) -> None:
    """Print a line for each check as it ends, then how many passed; exit code 1 if one failed."""
    from dataclasses import asdict

    from eztinker.conformance import run_checks

    outcomes = []
    for outcome in run_checks(url, model=model, api_key=api_key):
        outcomes.append(outcome)
        if not as_json:
            print_text(_line(outcome))
    count = {
        status: sum(o.status == status for o in outcomes) for status in ("PASS", "FAIL", "SKIP")
    }
    if as_json:
        print_json({"url": url, "summary": count, "checks": [asdict(o) for o in outcomes]})
    else:
        shown = {"pass_": count["PASS"], "fail": count["FAIL"], "skip": count["SKIP"]}
        print_text(say("conformance summary", url=url, **shown))
    if count["FAIL"]:
        raise typer.Exit(1)


def _line(outcome: Outcome) -> str:
    figures = ", ".join(f"{name}={value}" for name, value in outcome.figures.items())
    behind = outcome.problem or figures
    head = f"{outcome.status}  {outcome.seconds:7.2f} s  {outcome.group}: {outcome.name}"
    return f"{head}  ({behind})" if behind else head
