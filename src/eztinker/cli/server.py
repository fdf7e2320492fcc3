"""``server``: from flags to settings to the running service, restarting on changed sources if asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from eztinker.cli.server_options import (
    Aliases,
    AllowedHosts,
    ConfigFile,
    Device,
    ExitWithParent,
    Host,
    Insecure,
    NumThreads,
    Port,
    ReadyFile,
    StateDir,
    run_server,
)
from eztinker.cli.texts import say

RELOAD_FLAG = "--reload"


def server(
    host: Host = None,
    port: Port = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help=say("server workers"))
    ] = None,
    checkpoints_dir: Annotated[
        Path | None, typer.Option("--checkpoints-dir", help=say("server checkpoints-dir"))
    ] = None,
    reload: Annotated[bool, typer.Option(RELOAD_FLAG, help=say("server reload"))] = False,
    state_dir: StateDir = None,
    model: Annotated[list[str] | None, typer.Option("--model", help=say("server model"))] = None,
    alias: Aliases = None,
    config: ConfigFile = None,
    num_threads: NumThreads = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help=say("server dtype"))] = None,
    memory_budget: Annotated[
        float | None,
        typer.Option("--memory-budget", min=0, metavar="GB", help=say("server memory-budget")),
    ] = None,
    insecure: Insecure = None,
    allowed_host: AllowedHosts = None,
    exit_with_parent: ExitWithParent = False,
    ready_file: ReadyFile = None,
) -> None:
    """Run a server until it is told to stop."""
    if reload:
        from eztinker.cli.reload import serve_reloading

        arguments = [argument for argument in sys.argv[1:] if argument != RELOAD_FLAG]
        raise typer.Exit(serve_reloading(arguments))
    flags = {
        "host": host,
        "port": port,
        "workers": workers,
        "checkpoints_dir": checkpoints_dir,
        "state_dir": state_dir,
        "models": model or None,
        "aliases": alias,
        "num_threads": num_threads,
        "device": device,
        "dtype": dtype,
        "memory_budget_gb": memory_budget,
        "insecure": insecure,
        "allowed_hosts": allowed_host or None,
    }
    code = run_server(
        flags, config=config, exit_with_parent=exit_with_parent, ready_file=ready_file
    )
    raise typer.Exit(code)
