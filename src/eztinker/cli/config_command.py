"""``config show | check``: the settings of a server, without starting one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eztinker.cli.options import AsJson
from eztinker.cli.output import note, print_json, print_text
from eztinker.cli.texts import say

app = typer.Typer(no_args_is_help=True)


@app.command(help=say("config show"))
def show(
    config: Annotated[Path | None, typer.Option("--config", help=say("server config"))] = None,
    as_json: AsJson = False,
) -> None:
    """Print every setting with its value, as a settings file would hold it."""
    import yaml

    from eztinker.config import load_config

    settings = load_config(config_file=config).model_dump(mode="json")
    if as_json:
        print_json(settings)
    else:
        print_text(yaml.safe_dump(settings, allow_unicode=True, sort_keys=False).rstrip())


@app.command(help=say("config check"))
def check(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", show_default=False)] = None,
) -> None:
    """Say that a file (default: what a server would read here) is valid, or what is wrong with it."""
    from eztinker.config import load_config

    load_config(config_file=file)
    note(say("settings ok"))
