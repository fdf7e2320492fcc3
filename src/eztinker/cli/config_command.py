"""``config show | check | import``: the settings of a server without starting one, and training files of others."""

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


@app.command("import", help=say("config import"))
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=say("config import output"))
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help=say("config import data"))] = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help=say("config import drop"))
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a training file of LLaMA-Factory or axolotl as settings of a recipe, or write them to a file."""
    import yaml

    from eztinker.recipes.catalogue import get_recipe
    from eztinker.recipes.experiment.settings import make_settings, read_yaml
    from eztinker.recipes.foreign_config import import_config

    found = import_config(read_yaml(file), folder=file.parent, data=data, drop=drop or ())
    make_settings(
        get_recipe(found.recipe).config_class, found.settings
    )  # refuses what has no effect
    text = yaml.safe_dump(found.settings, allow_unicode=True, sort_keys=False)
    if output is not None:
        output.write_text(text, encoding="utf-8")
    if as_json:
        print_json({"recipe": found.recipe, "settings": found.settings, "left_out": found.left_out})
    elif output is None:
        print_text(text.rstrip())
    if found.left_out:
        note(say("config import left out", keys=", ".join(found.left_out)))
    target = "FILE" if output is None else str(output)
    note(f"eztinker recipe {found.recipe} --config {target}")
