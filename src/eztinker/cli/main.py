"""``eztinker``: the program, and nothing but its table of commands.

Each command lives in the file of its group and imports what it needs when it runs, so that ``--help``
answers at once. Called by the installed script and by ``python -m eztinker``.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from eztinker.cli import (
    chat,
    checkpoints,
    config_command,
    conformance,
    data,
    demo,
    doctor,
    estimate,
    evaluation,
    export,
    import_adapter,
    jobs,
    keys,
    logs,
    merge,
    recipe,
    runs,
    sampling,
    serve,
    server,
    service,
)
from eztinker.cli.exits import friendly_exits
from eztinker.cli.texts import say


class _Program(TyperGroup):
    """The group of all commands; ends each of them by the rules of ``exits.py``."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that ``ctx`` names."""
        with friendly_exits():
            return super().invoke(ctx)


app = typer.Typer(
    name="eztinker",
    cls=_Program,
    help=say("app"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        service.version()
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help=say("version")),
    ] = False,
) -> None:
    """Holds the options of the program itself; its help is the program's."""


app.command(help=say("server"))(server.server)
app.command(help=say("version"))(service.version)
app.command(help=say("health"))(service.health)
app.command(help=say("status"))(service.status)
app.command(help=say("create"))(runs.create)
app.command("list-runs", help=say("list-runs"))(runs.list_runs)
app.command(help=say("delete"))(runs.delete)
app.command(help=say("sample"))(sampling.sample)
app.command(help=say("chat"))(chat.chat)
app.command(help=say("save"))(checkpoints.save)
app.command("checkpoints", help=say("checkpoints"))(checkpoints.list_checkpoints)
app.command(help=say("serve"))(serve.serve)
app.command(help=say("merge"))(merge.merge)
app.command(help=say("export"))(export.export)
app.command("import", help=say("import"))(import_adapter.import_adapter)
app.command(help=say("push"))(export.push)
app.command(help=say("pin"))(checkpoints.pin)
app.command(help=say("prune"))(checkpoints.prune)
app.command("eval", help=say("eval"))(evaluation.evaluate)
app.command(help=say("logs"))(logs.logs)
app.command(help=say("demo"))(demo.demo)
app.command(help=say("recipe"))(recipe.recipe)
app.command(help=say("estimate"))(estimate.estimate)
app.command(help=say("doctor"))(doctor.doctor)
app.command(help=say("conformance"))(conformance.conformance)
app.add_typer(jobs.app, name="jobs", help=say("jobs"))
app.add_typer(keys.app, name="keys", help=say("keys"))
app.add_typer(config_command.app, name="config", help=say("config"))
app.add_typer(data.app, name="data", help=say("data"))


def run() -> None:
    """Entry point of the installed script."""
    app(prog_name="eztinker")
