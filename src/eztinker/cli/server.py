"""``server``: from flags to settings to the running service, restarting on changed sources if asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from eztinker.cli.texts import say
from eztinker.errors import InvalidRequestError

RELOAD_FLAG = "--reload"


def server(
    host: Annotated[str | None, typer.Option("--host", help=say("server host"))] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help=say("server port"))
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help=say("server workers"))
    ] = None,
    checkpoints_dir: Annotated[
        Path | None, typer.Option("--checkpoints-dir", help=say("server checkpoints-dir"))
    ] = None,
    reload: Annotated[bool, typer.Option(RELOAD_FLAG, help=say("server reload"))] = False,
    state_dir: Annotated[
        Path | None, typer.Option("--state-dir", help=say("server state-dir"))
    ] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help=say("server model"))] = None,
    alias: Annotated[
        list[str] | None, typer.Option("--alias", metavar="NAME=PATH", help=say("server alias"))
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help=say("server config"))] = None,
    num_threads: Annotated[
        int | None, typer.Option("--num-threads", min=0, help=say("server num-threads"))
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help=say("server device"))] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help=say("server dtype"))] = None,
    memory_budget: Annotated[
        float | None,
        typer.Option("--memory-budget", min=0, metavar="GB", help=say("server memory-budget")),
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help=say("server insecure"))
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option("--allowed-host", help=say("server allowed-host"))
    ] = None,
    exit_with_parent: Annotated[bool, typer.Option("--exit-with-parent", hidden=True)] = False,
    ready_file: Annotated[Path | None, typer.Option("--ready-file", hidden=True)] = None,
) -> None:
    """Run a server until it is told to stop."""
    if reload:
        from eztinker.cli.reload import serve_reloading

        arguments = [argument for argument in sys.argv[1:] if argument != RELOAD_FLAG]
        raise typer.Exit(serve_reloading(arguments))
    flags: dict[str, Any] = {
        "host": host,
        "port": port,
        "workers": workers,
        "checkpoints_dir": checkpoints_dir,
        "state_dir": state_dir,
        "models": tuple(model) if model else None,
        "aliases": aliases_of(alias) if alias else None,
        "num_threads": num_threads,
        "device": device,
        "dtype": dtype,
        "memory_budget_gb": memory_budget,
        "insecure": insecure,
        "allowed_hosts": tuple(allowed_host) if allowed_host else None,
    }
    from eztinker.config import load_config

    settings = load_config(flags, config_file=config)
    from eztinker.launch import serve

    raise typer.Exit(serve(settings, exit_with_parent=exit_with_parent, ready_file=ready_file))


def aliases_of(pairs: list[str]) -> dict[str, str]:
    """``NAME=NAME_OR_PATH`` pairs as a mapping."""
    aliases = {}
    for pair in pairs:
        name, separator, target = pair.partition("=")
        if not (name and separator and target):
            raise InvalidRequestError(
                f"--alias: expected NAME=NAME_OR_PATH, got {pair!r}.", field="alias"
            )
        aliases[name] = target
    return aliases
